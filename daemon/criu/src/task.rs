//! A tokio task that ends with its handle.

use std::future::Future;

use tokio::task::JoinHandle;

/// A task that is cancelled when this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(future)))
    }

    /// Lets it run to its own end.
    pub(crate) fn detach(mut self) {
        self.0 = None;
    }

    /// Waits for the result. Safe to cancel; to be taken once.
    pub(crate) async fn result(&mut self) -> T {
        let Some(handle) = &mut self.0 else {
            return std::future::pending().await;
        };
        match handle.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only this handle cancels, and it is still here; the runtime itself is ending.
            Err(_) => std::future::pending().await,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}
