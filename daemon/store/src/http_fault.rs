//! What the answers of object stores over HTTP mean, and how their bodies are read: the same for S3
//! and for Google's XML API.

use std::{error::Error, fmt::Display, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::{ErrorKind, Operation, Result, StoreError};

/// Longest wait for a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time for one request until its answer begins: the backstop for callers without a
/// deadline (16 MiB at 256 KiB/s).
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(64);

/// Longest silence within an answer's body.
pub(crate) const BODY_SILENCE_MAX: Duration = Duration::from_secs(10);

/// What a status and the error code in its body mean for an operation.
pub(crate) fn kind_of(operation: Operation, status: u16, code: &str) -> ErrorKind {
    let replaces = operation == Operation::PutIfMatch;
    match (status, code) {
        (412, _) if replaces => ErrorKind::Conflict,
        (412, _) => ErrorKind::AlreadyExists,
        (_, "NoSuchBucket") => ErrorKind::NoBucket,
        (404, _) if replaces => ErrorKind::Conflict,
        (404, _) => ErrorKind::NotFound,
        (_, "QuotaExceeded" | "XMinioStorageFull") | (507, _) => ErrorKind::Full,
        (401 | 403, _) | (_, "ExpiredToken" | "InvalidToken") => ErrorKind::Denied,
        (413, _) | (_, "EntityTooLarge") => ErrorKind::TooLarge,
        (416, _) => ErrorKind::OutOfRange,
        (501, _) => ErrorKind::Unsupported,
        (408 | 409 | 429 | 500.., _) => ErrorKind::Transient,
        // The body changed or broke off on its way.
        (400, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch") => {
            ErrorKind::Transient
        }
        _ => ErrorKind::Invalid,
    }
}

/// Whether nothing can have been written after this answer. A server that answers 500 may have.
pub(crate) fn is_undone(status: u16, code: &str) -> bool {
    matches!(status, 400..500) || code == "SlowDown"
}

/// The failure of a request that got no answer. `sent` is false if it is known that the server has
/// not seen it.
pub(crate) fn unanswered(
    operation: Operation,
    subject: impl Display,
    cause: Box<dyn Error + Send + Sync>,
    sent: bool,
) -> StoreError {
    let new = |kind, found: &'static str| StoreError::new(kind, operation, &subject, found);
    // The TLS libraries below hide their errors in text.
    if tells(&*cause, "invalid peer certificate") {
        let found = "the server's certificate is not trusted; if its authority is a private one, \
                     name the authority's certificates in SSL_CERT_FILE";
        return new(ErrorKind::Invalid, found)
            .surely_undone()
            .because(cause);
    }
    if sent {
        new(ErrorKind::Transient, "no answer, or it broke off").because(cause)
    } else {
        new(ErrorKind::Transient, "no connection")
            .surely_undone()
            .because(cause)
    }
}

/// Whether some error in a chain of causes says `words`.
fn tells(error: &(dyn Error + 'static), words: &str) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(words) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Of a conditional write: a failure after which it may have happened.
pub(crate) fn lost(error: StoreError) -> StoreError {
    match error.kind() {
        ErrorKind::Transient if !error.is_surely_undone() => error.into_kind(ErrorKind::Unknown),
        _ => error,
    }
}

/// Reads a body of exactly `size` bytes into one buffer.
pub(crate) async fn collect<E>(
    operation: Operation,
    subject: impl Display,
    body: impl Stream<Item = std::result::Result<Bytes, E>>,
    size: u64,
) -> Result<Bytes>
where
    E: Error + Send + Sync + 'static,
{
    let broken = |found: String| StoreError::new(ErrorKind::Transient, operation, &subject, found);
    let capacity = usize::try_from(size)
        .map_err(|_| StoreError::new(ErrorKind::TooLarge, operation, &subject, "beyond memory"))?;
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::with_capacity(capacity);
    loop {
        let part = match tokio::time::timeout(BODY_SILENCE_MAX, body.next()).await {
            Ok(Some(Ok(part))) => part,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let found = format!("the body broke off after {} of {size} bytes", bytes.len());
                return Err(broken(found).because(error));
            }
            Err(_) => {
                let (got, max) = (bytes.len(), BODY_SILENCE_MAX);
                return Err(broken(format!(
                    "silence for {max:?} after {got} of {size} bytes"
                )));
            }
        };
        if part.len() > capacity - bytes.len() {
            return Err(broken(format!("more than the announced {size} bytes came")));
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() < capacity {
        return Err(broken(format!(
            "the body ended after {} of {size} bytes",
            bytes.len()
        )));
    }
    Ok(bytes.freeze())
}
