//! A daemon's own parts without its services, over a store that the test chooses.

use std::{sync::Arc, time::Duration};

use lifeboat_store::Store;
use lifeboatd::{claim::Heads, cli::Settings, config::Config, daemon::Context};

/// How long an owner may be silent. Short: whoever waits for it does so for real.
const LEASE: Duration = Duration::from_millis(400);

/// A node.
pub(super) struct Node {
    /// What its code works with.
    pub context: Arc<Context>,
    _folder: tempfile::TempDir,
}

impl Node {
    pub(super) async fn new(name: &str, store: Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lifeboatd.toml");
        std::fs::write(&file, "").unwrap();
        let daemon = crate::support::program("lifeboatd");
        let settings = Settings {
            config: Some(file),
            state_dir: Some(folder.path().join("state")),
            node: Some(name.to_owned()),
            libexec: daemon.parent().map(Into::into),
            ..Settings::default()
        };
        let config = Config::load(settings).unwrap();
        let mut context = Context::build(config).await.unwrap();
        let parts = Arc::get_mut(&mut context).expect("nobody else has it yet");
        let seal = Arc::clone(&parts.seal);
        parts.heads = Heads::new(Arc::clone(&store), seal, name.to_owned(), LEASE);
        parts.store = store;
        Self {
            context,
            _folder: folder,
        }
    }
}
