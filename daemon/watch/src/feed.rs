//! Where sources report to.

use std::error::Error;

use tokio::sync::mpsc;

use crate::{
    board::Board,
    notice::{Sighting, Source},
};

/// Most reports, and most changes, that wait to be acted on. A source that reports more waits.
pub const NOTICES_MAX: usize = 64;

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It sees something.
    Seen(Sighting),
    /// It does not see something any more that it saw.
    Gone(Source, String),
}

/// The way from the sources to the merged stream. Clones lead to the same.
#[derive(Clone, Debug)]
pub struct Feed {
    reports: mpsc::Sender<Report>,
    board: Board,
}

impl Feed {
    pub(crate) fn new(board: Board) -> (Self, mpsc::Receiver<Report>) {
        let (reports, receiver) = mpsc::channel(NOTICES_MAX);
        (Self { reports, board }, receiver)
    }

    /// Reports what is seen; also the way in for a notice that came by a call.
    pub async fn seen(&self, sighting: Sighting) {
        // A stream that nobody reads is at its end: the daemon stops.
        drop(self.reports.send(Report::Seen(sighting)).await);
    }

    /// Reports that something is not seen any more.
    pub async fn gone(&self, source: Source, key: &str) {
        drop(
            self.reports
                .send(Report::Gone(source, key.to_owned()))
                .await,
        );
    }

    /// Notes that a source answered as documented.
    pub(crate) fn success(&self, source: Source) {
        if self.board.succeeded(source) {
            tracing::info!(%source, "watched");
        }
    }

    /// Notes that a source did not. The first of a row of failures is logged as a warning.
    pub(crate) fn failure(&self, source: Source, error: &dyn Error) {
        let why = chain(error);
        if self.board.failed(source, why.clone()) {
            tracing::warn!(%source, error = why, "asked again until it answers");
        } else {
            tracing::debug!(%source, error = why, "asked again");
        }
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
