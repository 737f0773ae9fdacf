//! HTTP below `object_store`: keeps status and error code of what servers refuse, which that crate
//! only has as text, and keeps proxies away from the metadata service.

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpService, ReqwestConnector,
    },
};

use crate::http_fault::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT};

/// Where Google's machines find their credentials.
const METADATA_HOSTS: [&str; 2] = ["metadata.google.internal", "169.254.169.254"];

/// Most of a refusal's body that is looked at.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Makes [`Observed`] clients.
#[derive(Debug)]
pub(super) struct Connector;

/// Two clients: one for the metadata service, one for all else.
#[derive(Debug)]
struct Observed {
    direct: HttpClient,
    client: HttpClient,
}

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{host} answers HTTP {status}, {code}: {message}")]
pub(super) struct Refusal {
    /// Who answered.
    pub(super) host: String,
    /// Its status.
    pub(super) status: u16,
    /// The error code of its body, or nothing.
    pub(super) code: String,
    /// The message of its body, or nothing.
    pub(super) message: String,
}

/// No answer from the source of credentials.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {host}")]
pub(super) struct NoMetadata {
    host: String,
    source: HttpError,
}

impl Refusal {
    /// Whether the storage itself answered, and not a source of credentials.
    pub(super) fn is_of_storage(&self) -> bool {
        let credentials = |host: &str| {
            METADATA_HOSTS.contains(&host)
                || [
                    "oauth2.googleapis.com",
                    "accounts.google.com",
                    "sts.googleapis.com",
                ]
                .contains(&host)
        };
        !credentials(&self.host)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let direct = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .map_err(|error| object_store::Error::Generic {
                store: "GCS",
                source: error.into(),
            })?;
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Observed {
            direct: HttpClient::new(direct),
            client,
        }))
    }
}

#[async_trait]
impl HttpService for Observed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        if METADATA_HOSTS.contains(&host.as_str()) {
            let answer = self.direct.execute(request).await.map_err(|source| {
                HttpError::new(
                    source.kind(),
                    NoMetadata {
                        host: host.clone(),
                        source,
                    },
                )
            })?;
            return refused(host, answer).await;
        }
        refused(host, self.client.execute(request).await?).await
    }
}

/// The answer, or its refusal as an error.
async fn refused(host: String, answer: HttpResponse) -> Result<HttpResponse, HttpError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let mut body = Vec::new();
    let mut parts = answer.into_body().bytes_stream();
    while let Ok(Some(part)) = parts.try_next().await {
        let room = REFUSAL_BYTES_MAX - body.len();
        body.extend_from_slice(&part[..part.len().min(room)]);
        if body.len() == REFUSAL_BYTES_MAX {
            break;
        }
    }
    let body = String::from_utf8_lossy(&body);
    let code = element(&body, "Code").unwrap_or_default();
    let message = element(&body, "Message").unwrap_or_default();
    let refusal = Refusal {
        host,
        status: status.as_u16(),
        code,
        message,
    };
    // This kind is never repeated below us.
    Err(HttpError::new(HttpErrorKind::Decode, refusal))
}

/// The text of an XML element that has nothing but text.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_in_googles_errors() {
        let body = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchBucket</Code>\
                    <Message>The specified bucket does not exist.</Message></Error>";
        assert_eq!(element(body, "Code").as_deref(), Some("NoSuchBucket"));
        let message = "The specified bucket does not exist.";
        assert_eq!(element(body, "Message").as_deref(), Some(message));
        for odd in ["", "<Code>", "</Code><Code>", "Not Found", "{\"error\": 1}"] {
            assert_eq!(element(odd, "Code"), None);
        }
    }
}
