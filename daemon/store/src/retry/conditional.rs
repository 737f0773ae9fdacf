//! Conditional writes whose answers may be lost.

use bytes::Bytes;

use super::{Retrying, Shape, Turns};
use crate::{Call, ErrorKind, Key, Operation, Result, Store, StoreError, Version};

/// What reading back says about a write whose answer was lost.
enum Verdict {
    /// It happened.
    Done(Version),
    /// It did not happen, or not yet: the object is as it was before.
    NotYet,
    /// It cannot happen any more, or was overwritten.
    Lost(StoreError),
}

impl Retrying {
    /// Creates (`expected` none) or replaces an object.
    pub(super) async fn conditional(
        &self,
        key: &Key,
        body: Bytes,
        expected: Option<&Version>,
        call: Call,
    ) -> Result<Version> {
        let operation = if expected.is_some() {
            Operation::PutIfMatch
        } else {
            Operation::PutIfAbsent
        };
        let mut turns = Turns::new(Shape::new(operation, body.len() as u64), call);
        // Whether some attempt may have happened, or may still.
        let mut in_doubt = false;
        loop {
            let Some(limit) = turns.next_of_two(&self.pace) else {
                let error = turns.give_up(key);
                return Err(if in_doubt {
                    error.into_kind(ErrorKind::Unknown)
                } else {
                    error
                });
            };
            let error = match self
                .write_once(operation, key, &body, expected, limit)
                .await
            {
                Ok(version) => return Ok(version),
                Err(error) => error,
            };
            let decides = match error.kind() {
                ErrorKind::Unknown => {
                    in_doubt = true;
                    true
                }
                ErrorKind::AlreadyExists | ErrorKind::Conflict if in_doubt => true,
                ErrorKind::Transient | ErrorKind::Deadline => false,
                _ if in_doubt => return Err(turns.last_words(error.into_kind(ErrorKind::Unknown))),
                _ => return Err(turns.last_words(error)),
            };
            if decides {
                match self
                    .read_back(operation, key, &body, expected, turns.call)
                    .await
                {
                    Ok(Verdict::Done(version)) => return Ok(version),
                    Ok(Verdict::Lost(error)) => return Err(turns.last_words(error)),
                    Ok(Verdict::NotYet) => {}
                    Err(cause) => {
                        let found = "its answer was lost, and reading back failed";
                        let error = StoreError::new(ErrorKind::Unknown, operation, key, found);
                        return Err(turns.last_words(error.because(cause)));
                    }
                }
            }
            self.failed(&mut turns, error).await;
        }
    }

    /// One attempt; silence makes its outcome unknown.
    async fn write_once(
        &self,
        operation: Operation,
        key: &Key,
        body: &Bytes,
        expected: Option<&Version>,
        limit: Call,
    ) -> Result<Version> {
        let began = tokio::time::Instant::now();
        let write = match expected {
            None => self.inner.put_if_absent(key, body.clone(), limit),
            Some(version) => self.inner.put_if_match(key, body.clone(), version, limit),
        };
        let end = limit.deadline.unwrap_or(began + super::BUDGET);
        match tokio::time::timeout_at(end, write).await {
            Ok(done) => done,
            Err(_) => {
                let found = format!("no answer within {:?}", began.elapsed());
                Err(StoreError::new(ErrorKind::Unknown, operation, key, found))
            }
        }
    }

    /// Looks at the object, with retries, until the whole call is over.
    async fn read_back(
        &self,
        operation: Operation,
        key: &Key,
        body: &Bytes,
        expected: Option<&Version>,
        call: Call,
    ) -> Result<Verdict> {
        let lost = |kind, found: &'static str| {
            Ok(Verdict::Lost(StoreError::new(kind, operation, key, found)))
        };
        match (self.get(key, body.len() as u64, call).await, expected) {
            (Ok(object), _) if object.bytes == *body => Ok(Verdict::Done(object.version)),
            (Ok(object), Some(expected)) if object.version == *expected => Ok(Verdict::NotYet),
            (Ok(_), Some(_)) => lost(ErrorKind::Conflict, "another writer was faster"),
            (Ok(_), None) => lost(ErrorKind::AlreadyExists, "another writer was faster"),
            (Err(error), expected) => match (error.kind(), expected) {
                (ErrorKind::NotFound, None) => Ok(Verdict::NotYet),
                (ErrorKind::NotFound, Some(_)) => lost(ErrorKind::Conflict, "the object is gone"),
                (ErrorKind::TooLarge, None) => {
                    lost(ErrorKind::AlreadyExists, "another writer was faster")
                }
                // Larger than ours: the one that was to be replaced, or another writer's.
                (ErrorKind::TooLarge, Some(expected)) => match self.head(key, call).await {
                    Ok(meta) if meta.version == *expected => Ok(Verdict::NotYet),
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => lost(ErrorKind::Conflict, "another writer was faster"),
                },
                _ => Err(error),
            },
        }
    }
}
