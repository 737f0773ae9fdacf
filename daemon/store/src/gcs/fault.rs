//! What Google's failures mean.

use std::{error::Error, fmt};

use object_store::client::{HttpError, HttpErrorKind};

use super::connector::{NoMetadata, Refusal};
use crate::{
    ErrorKind, Operation, StoreError,
    error::find,
    http_fault::{is_undone, kind_of, unanswered},
};

/// A failure of `object_store` as ours.
pub(super) fn classify(
    error: object_store::Error,
    operation: Operation,
    subject: impl fmt::Display,
) -> StoreError {
    let new = |kind, found: String| StoreError::new(kind, operation, &subject, found);
    let cause: &(dyn Error + 'static) = &error;
    if let Some(refusal) = find::<Refusal>(cause) {
        let Refusal {
            host,
            status,
            code,
            message,
        } = refusal;
        if !refusal.is_of_storage() {
            let transient = matches!(status, 408 | 429 | 500..);
            let kind = if transient {
                ErrorKind::Transient
            } else {
                ErrorKind::Denied
            };
            let found = format!("{host} gives no credentials: HTTP {status} {code} {message}");
            return new(kind, found).surely_undone();
        }
        let found = format!("HTTP {status}, {code}: {message}");
        let error = new(kind_of(operation, *status, code), found);
        return if is_undone(*status, code) {
            error.surely_undone()
        } else {
            error
        };
    }
    if find::<NoMetadata>(cause).is_some() {
        let found = "the machine's metadata service does not answer; outside of Google's machines \
                     set GOOGLE_APPLICATION_CREDENTIALS";
        return new(ErrorKind::Transient, found.to_owned())
            .surely_undone()
            .because(error);
    }
    if let Some(http) = find::<HttpError>(cause) {
        let sent = http.kind() != HttpErrorKind::Connect;
        return unanswered(operation, &subject, error.into(), sent);
    }
    match &error {
        object_store::Error::Generic { .. } => {
            let found = "the answer is not Google's, or credentials are wrong";
            new(ErrorKind::Unsupported, found.to_owned()).because(error)
        }
        _ => new(ErrorKind::Invalid, "the request cannot be made".to_owned()).because(error),
    }
}
