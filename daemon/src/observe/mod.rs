//! Logs and metrics.

pub mod codecs;
pub mod failpoint;
pub mod http;
pub mod metrics;

use std::error::Error;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
///
/// # Errors
/// When the filter cannot be understood.
pub fn start_logging(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if json {
        lines.json().try_init()
    } else {
        lines.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// An error and all its sources, as one sentence.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
