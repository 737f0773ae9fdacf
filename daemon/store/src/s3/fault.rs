//! What S3's failures mean.

use std::{error::Error, fmt};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use aws_smithy_runtime_api::http::Response;

use crate::{ErrorKind, Operation, StoreError};

/// A failure of the SDK as ours.
pub(super) fn classify<E>(
    error: SdkError<E, Response>,
    operation: Operation,
    subject: impl fmt::Display,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let new = |kind, found: String| StoreError::new(kind, operation, &subject, found);
    match &error {
        SdkError::ServiceError(answer) => {
            let (status, meta) = (answer.raw().status().as_u16(), answer.err().meta());
            let kind = kind_of(operation, status, meta.code());
            let code = meta.code().unwrap_or("no error code");
            let text = meta.message().unwrap_or("no message");
            let id = meta.request_id().unwrap_or("none");
            let hint = hint(status, code);
            let error = new(
                kind,
                format!("HTTP {status}, {code}: {text} (request {id}){hint}"),
            );
            if matches!(status, 400..500) || code == "SlowDown" {
                error.surely_undone()
            } else {
                error
            }
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let found = format!("HTTP {status} with an answer that cannot be read");
            new(ErrorKind::Transient, found).because(error)
        }
        SdkError::TimeoutError(_) => {
            new(ErrorKind::Transient, "no answer in time".to_owned()).because(error)
        }
        _ => match find::<CredentialsError>(&error) {
            Some(CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)) => {
                let found = "the source of credentials does not answer";
                new(ErrorKind::Transient, found.to_owned()).because(error)
            }
            Some(_) => {
                let found = "no credentials for S3 were found (looked in the environment, the AWS \
                             profile, web identity, container and instance metadata)";
                new(ErrorKind::Denied, found.to_owned()).because(error)
            }
            None => match &error {
                SdkError::DispatchFailure(failure) if !failure.is_user() => new(
                    ErrorKind::Transient,
                    "no connection, or it broke".to_owned(),
                )
                .because(error),
                _ => {
                    new(ErrorKind::Invalid, "the request cannot be made".to_owned()).because(error)
                }
            },
        },
    }
}

/// Of a conditional write: a failure after which it may have happened.
///
/// Whether a server that answers 500, or none, has written is not known. It has not if it says that
/// it was too busy or that two writers met (409).
pub(super) fn lost(error: StoreError) -> StoreError {
    match error.kind() {
        ErrorKind::Transient if !error.is_surely_undone() => error.into_kind(ErrorKind::Unknown),
        _ => error,
    }
}

fn kind_of(operation: Operation, status: u16, code: Option<&str>) -> ErrorKind {
    let replaces = operation == Operation::PutIfMatch;
    match (status, code.unwrap_or_default()) {
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

/// What to do, where the server's words do not say it.
fn hint(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (301 | 307, _)
        | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            "; the bucket is in another region: write ?region= in the store's URL"
        }
        (_, "RequestTimeTooSkewed") => "; set this machine's clock",
        (_, "SignatureDoesNotMatch") => "; the secret key is wrong",
        (_, "InvalidAccessKeyId") => "; the access key does not exist there",
        _ => "",
    }
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
