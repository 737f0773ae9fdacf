//! A played server with a watcher at it.

use std::time::Duration;

use lifeboat_metadata::{Control, Emulator, Wanted};
use lifeboat_watch::{
    Board, Change, Cloud, CloudChoice, Detected, Kind, LogindConfig, Notice, Setup, WatchConfig,
    Watching, start,
};
use tokio::sync::watch;

/// Longer than anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Time between two questions of sources that ask.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Long enough for several questions: nothing that is not there comes later.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

/// A watcher of a played server.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) control: Control,
    pub(crate) watching: Watching,
    pub(crate) board: Board,
    pub(crate) hurry: watch::Receiver<Option<Kind>>,
    pub(crate) state: tempfile::TempDir,
}

/// A configuration that asks nobody.
pub(crate) fn nobody() -> WatchConfig {
    let mut config = WatchConfig {
        cloud: CloudChoice::These(Vec::new()),
        logind: LogindConfig {
            enabled: false,
            bus: None,
        },
        ..WatchConfig::default()
    };
    config.aws.poll = POLL;
    config.azure.poll = POLL;
    config
}

impl Watched {
    /// A server of everybody, and a watcher of `clouds`.
    pub(crate) async fn start(clouds: &[Cloud]) -> Self {
        Self::start_with(clouds, |_, _| {}).await
    }

    /// The same, prepared before the watcher starts.
    pub(crate) async fn start_with(
        clouds: &[Cloud],
        prepare: impl FnOnce(&Control, &mut WatchConfig),
    ) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let emulator = Emulator::bind(address, Wanted::All).await.unwrap();
        let mut config = nobody();
        config.cloud = CloudChoice::These(clouds.to_vec());
        config.set_endpoint(&format!("http://{}", emulator.address().unwrap()));
        let control = emulator.control();
        tokio::spawn(emulator.serve());
        prepare(&control, &mut config);
        Self::of(control, config)
    }

    /// A watcher with this configuration.
    pub(crate) fn of(control: Control, config: WatchConfig) -> Self {
        let state = tempfile::tempdir().unwrap();
        let board = Board::default();
        let (sender, hurry) = watch::channel(None);
        let watching = start(&Setup {
            config,
            state_dir: state.path().to_owned(),
            notice: Duration::from_secs(25),
            board: board.clone(),
            hurry: sender,
            detected: Detected::default(),
        });
        Self {
            control,
            watching,
            board,
            hurry,
            state,
        }
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Change {
        let next = tokio::time::timeout(LIMIT, self.watching.changes.recv()).await;
        next.unwrap().unwrap()
    }

    /// The next change, which must be a new notice.
    pub(crate) async fn given(&mut self) -> Notice {
        match self.next().await {
            Change::Given(notice) => notice,
            other => panic!("{other:?}"),
        }
    }

    /// The next change, which must be a withdrawal.
    pub(crate) async fn withdrawn(&mut self) -> Notice {
        match self.next().await {
            Change::Withdrawn(notice) => notice,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing more is said for a while.
    pub(crate) async fn nothing(&mut self) {
        let next = tokio::time::timeout(QUIET, self.watching.changes.recv()).await;
        assert!(next.is_err(), "{next:?}");
    }

    /// Waits until the board shows what `accept`s.
    pub(crate) async fn board_shows(
        &self,
        accept: impl Fn(&[lifeboat_watch::SourceStatus]) -> bool,
    ) {
        let looks = async {
            while !accept(&self.board.sources()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(LIMIT, looks).await;
        assert!(seen.is_ok(), "{:?}", self.board.sources());
    }
}

/// Seconds until the deadline, rounded up.
pub(crate) fn seconds(notice: &Notice) -> u128 {
    notice.remaining().unwrap().as_millis().div_ceil(1000)
}
