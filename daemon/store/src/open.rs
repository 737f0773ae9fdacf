//! From a URL to a store.

use std::{fmt, io, path::Path, sync::Arc};

use url::Url;

use crate::{
    KeyError, Prefix, Store,
    faulty::{self, Faulty, Plan, PlanError},
    file::File,
    gcs::{self, Gcs},
    memory::Memory,
    null::{self, Null},
    retry::Retrying,
    s3::{AccessKey, S3, Settings},
};

/// How a store is opened, besides its URL.
#[derive(Clone, Default)]
pub struct Options {
    /// Credentials for S3; else AWS's default chain.
    pub s3_credentials: Option<AccessKey>,
    /// OAuth token for Google Cloud Storage; else Google's default credentials.
    pub gcs_token: Option<String>,
    /// Whether URLs with a plan of faults are accepted; else only by [`faulty::ALLOW_VARIABLE`].
    pub allow_faults: bool,
    /// Whether a store that discards packs is accepted; else only by [`null::ALLOW_VARIABLE`].
    pub allow_null: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("allow_faults", &self.allow_faults)
            .field("allow_null", &self.allow_null)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL, or of another kind.
    #[error(
        "{url:?} is not a store's URL ({problem}): write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, \
         file:///FOLDER or memory:NAME"
    )]
    Url {
        /// What was given, without credentials.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter that is not known or not valid.
    #[error("parameter {name}={value:?} of the store's URL is not allowed: {remedy}")]
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What to write.
        remedy: &'static str,
    },
    /// Credentials of Google that cannot be read.
    #[error("credentials for Google Cloud Storage cannot be used")]
    Credentials(#[source] object_store::Error),
    /// A URL with faults where they are not allowed.
    #[error(
        "the store's URL plans faults: only for tests, where the environment has {}=1",
        faulty::ALLOW_VARIABLE
    )]
    FaultsNotAllowed,
    /// A store that discards packs where that is not allowed.
    #[error(
        "a null store discards what it is given: only for measurements, where the environment has {}=1",
        null::ALLOW_VARIABLE
    )]
    NullNotAllowed,
    /// A plan of faults that is not understood.
    #[error("the plan of faults in the store's URL is wrong")]
    Plan(#[source] PlanError),
    /// The path of a bucket's URL cannot be the beginning of keys.
    #[error("the path of the store's URL cannot be a prefix of keys")]
    Prefix(#[source] KeyError),
    /// The folder cannot be used.
    #[error("folder {folder:?} cannot be used as a store")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens the store that `url` names, with retries around it:
///
/// - `s3://BUCKET/PREFIX`, with `?endpoint=http://HOST:PORT` for servers other than AWS's,
///   `?region=NAME`, `?path_style=true|false`;
/// - `gs://BUCKET/PREFIX`, with `?endpoint=https://HOST` for a private endpoint of Google's, or
///   `http://HOST:PORT` for an emulator;
/// - `file:///FOLDER`: made if it does not exist;
/// - `memory:NAME`: in this process, for tests;
/// - `null:NAME`: discards packs, for measurements where that is allowed;
/// - `faulty+URL` with the parameter `plan`: one of these that fails as told, for tests.
///
/// # Errors
/// If the URL is wrong, or the folder cannot be used. Servers are not asked: see [`crate::probe`].
pub async fn open(url: &str, options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    Ok(open_retrying(url, options).await?)
}

/// The same as [`open`], for whoever wants to see [`Retrying::stats`].
///
/// # Errors
/// As [`open`].
pub async fn open_retrying(url: &str, options: &Options) -> Result<Arc<Retrying>, OpenError> {
    let inner = match url.strip_prefix("faulty+") {
        None => open_once(&parse(url)?, options).await?,
        Some(_) if !may_fail(options) => return Err(OpenError::FaultsNotAllowed),
        Some(inner) => {
            let mut inner = parse(inner)?;
            let plan = take_plan(&mut inner)?;
            Arc::new(Faulty::new(open_once(&inner, options).await?, plan))
        }
    };
    Ok(Arc::new(Retrying::new(inner)))
}

/// The store itself, without retries.
async fn open_once(url: &Url, options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    match url.scheme() {
        "s3" => Ok(Arc::new(S3::open(s3_settings(url, options)?).await)),
        "gs" => {
            let store = Gcs::open(gcs_settings(url, options)?);
            Ok(Arc::new(store.map_err(OpenError::Credentials)?))
        }
        "file" => Ok(Arc::new(open_folder(url)?)),
        "memory" => {
            no_parameters(url)?;
            Ok(Arc::new(Memory::named(url.path())))
        }
        "null" if !may_discard(options) => Err(OpenError::NullNotAllowed),
        "null" => {
            no_parameters(url)?;
            Ok(Arc::new(Null::default()))
        }
        scheme => Err(bad(
            url.as_str(),
            &format!("{scheme}: is not a kind of store"),
        )),
    }
}

fn parse(url: &str) -> Result<Url, OpenError> {
    let parsed = Url::parse(url).map_err(|error| bad(url, &error.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let problem = "credentials do not belong into it; use the environment or a profile";
        return Err(bad(url, problem));
    }
    Ok(parsed)
}

fn may_fail(options: &Options) -> bool {
    options.allow_faults || std::env::var(faulty::ALLOW_VARIABLE).is_ok_and(|value| value == "1")
}

fn may_discard(options: &Options) -> bool {
    options.allow_null || std::env::var(null::ALLOW_VARIABLE).is_ok_and(|value| value == "1")
}

/// Takes the parameter `plan` out of the URL.
fn take_plan(url: &mut Url) -> Result<Plan, OpenError> {
    let (plans, rest): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .into_owned()
        .partition(|(name, _)| name == "plan");
    url.set_query(None);
    if !rest.is_empty() {
        url.query_pairs_mut().extend_pairs(rest);
    }
    let text = plans
        .into_iter()
        .map(|(_, plan)| plan)
        .collect::<Vec<_>>()
        .join(";");
    text.parse().map_err(OpenError::Plan)
}

fn bad(url: &str, problem: &str) -> OpenError {
    // What stands before an @ may be a secret.
    let (head, tail) = url.split_once("://").unwrap_or(("", url));
    let shown = tail.rsplit_once('@').map_or(tail, |(_, tail)| tail);
    let url = if head.is_empty() {
        shown.to_owned()
    } else {
        format!("{head}://{shown}")
    };
    OpenError::Url {
        url,
        problem: problem.to_owned(),
    }
}

fn open_folder(url: &Url) -> Result<File, OpenError> {
    no_parameters(url)?;
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(bad(
            url.as_str(),
            "a folder has three slashes: file:///FOLDER",
        ));
    }
    let path = url
        .to_file_path()
        .map_err(|()| bad(url.as_str(), "the folder is not a path"))?;
    if path == Path::new("/") {
        return Err(bad(url.as_str(), "the folder is missing"));
    }
    let folder = path.display().to_string();
    File::open(&path).map_err(|source| OpenError::Folder { folder, source })
}

fn no_parameters(url: &Url) -> Result<(), OpenError> {
    match url.query_pairs().next() {
        None => Ok(()),
        Some((name, value)) => Err(parameter(&name, &value, "this kind of store has none")),
    }
}

fn parameter(name: &str, value: &str, remedy: &'static str) -> OpenError {
    OpenError::Parameter {
        name: name.to_owned(),
        value: value.to_owned(),
        remedy,
    }
}

fn bucket_and_prefix(url: &Url) -> Result<(String, Prefix), OpenError> {
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
    let bucket = bucket.ok_or_else(|| bad(url.as_str(), "the bucket is missing"))?;
    let prefix = url.path().strip_prefix('/').unwrap_or(url.path());
    Ok((
        bucket.to_owned(),
        Prefix::new(prefix).map_err(OpenError::Prefix)?,
    ))
}

fn s3_settings(url: &Url, options: &Options) -> Result<Settings, OpenError> {
    let (bucket, prefix) = bucket_and_prefix(url)?;
    let mut settings = Settings {
        bucket,
        prefix,
        endpoint: None,
        region: None,
        path_style: None,
        credentials: options.s3_credentials.clone(),
    };
    for (name, value) in url.query_pairs() {
        match &*name {
            "endpoint" => settings.endpoint = Some(endpoint(&value)?),
            "region" => settings.region = Some(value.into_owned()),
            "path_style" => {
                let remedy = "write path_style=true or path_style=false";
                let style = value
                    .parse()
                    .map_err(|_| parameter(&name, &value, remedy))?;
                settings.path_style = Some(style);
            }
            _ => {
                let remedy = "s3 knows endpoint, region and path_style";
                return Err(parameter(&name, &value, remedy));
            }
        }
    }
    Ok(settings)
}

fn gcs_settings(url: &Url, options: &Options) -> Result<gcs::Settings, OpenError> {
    let (bucket, prefix) = bucket_and_prefix(url)?;
    let token = options.gcs_token.clone();
    let mut settings = gcs::Settings {
        bucket,
        prefix,
        endpoint: None,
        token,
    };
    for (name, value) in url.query_pairs() {
        match &*name {
            "endpoint" => settings.endpoint = Some(endpoint(&value)?),
            _ => return Err(parameter(&name, &value, "gs knows endpoint")),
        }
    }
    Ok(settings)
}

/// An endpoint without path, credentials or a slash at its end.
fn endpoint(value: &str) -> Result<String, OpenError> {
    let remedy = "write endpoint=http://HOST:PORT or https://HOST, without user, path or query";
    let wrong = || parameter("endpoint", "…", remedy);
    let url = Url::parse(value).map_err(|_| wrong())?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && matches!(url.scheme(), "http" | "https");
    if plain {
        Ok(url.as_str().trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}
