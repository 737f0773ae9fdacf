//! What S3's failures mean.

use std::{error::Error, fmt};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use aws_smithy_runtime_api::http::Response;

use hyper_util::client::legacy::Error as Connection;

use crate::{
    ErrorKind, Operation, StoreError,
    error::find,
    http_fault::{is_undone, kind_of, unanswered},
};

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
            let code = meta.code().unwrap_or("no error code");
            let kind = kind_of(operation, status, code);
            let text = meta.message().unwrap_or("no message");
            let id = meta.request_id().unwrap_or("none");
            let hint = hint(status, code);
            let error = new(
                kind,
                format!("HTTP {status}, {code}: {text} (request {id}){hint}"),
            );
            if is_undone(status, code) {
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
                SdkError::DispatchFailure(failure) if !failure.is_user() => {
                    let sent = !find::<Connection>(&error).is_some_and(Connection::is_connect);
                    unanswered(operation, &subject, error.into(), sent)
                }
                _ => {
                    new(ErrorKind::Invalid, "the request cannot be made".to_owned()).because(error)
                }
            },
        },
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
