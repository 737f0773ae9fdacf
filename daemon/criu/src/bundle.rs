//! The self-contained CRIU that is run: program, libraries, page filter, hook.
//!
//! ```text
//! DIR/bin/criu  DIR/lib/…  DIR/lib/liblifeboat_preload.so  DIR/bin/lifeboat-hook  DIR/VERSION
//! ```

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// File that names the bundled CRIU's version, as `criu=MAJOR.MINOR[.PATCH]` on a line.
const VERSION_FILE: &str = "VERSION";

/// Largest [`VERSION_FILE`] that is read, in bytes.
const VERSION_FILE_BYTES_MAX: usize = 4096;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file of it cannot be read.
    #[error("criu bundle: read {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say its version.
    #[error("criu bundle: {path} does not name criu's version", path = path.display())]
    NoVersion {
        /// The file that should.
        path: PathBuf,
    },
    /// Another version than the one whose images and behaviour this code knows.
    #[error("criu bundle: version {found} is not supported, {wanted} is")]
    Version {
        /// Its version.
        found: CriuVersion,
        /// The supported one.
        wanted: &'static str,
    },
}

/// A version of CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CriuVersion {
    /// Images are not readable across these.
    pub major: u16,
    /// Images are not readable across these.
    pub minor: u16,
    /// Images are readable across these.
    pub patch: u16,
}

impl CriuVersion {
    /// Whether one restores what the other dumped.
    #[must_use]
    pub fn reads_images_of(self, other: Self) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

impl fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("criu version {0:?} is not MAJOR.MINOR or MAJOR.MINOR.PATCH")]
pub struct VersionError(String);

impl FromStr for CriuVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let bad = || VersionError(text.chars().take(64).collect());
        let mut numbers = text.split('.').map(str::parse::<u16>);
        let mut next = || numbers.next().transpose().map_err(|_| bad());
        let version = (next()?, next()?, next()?);
        match version {
            (Some(major), Some(minor), patch) if numbers.next().is_none() => Ok(Self {
                major,
                minor,
                patch: patch.unwrap_or(0),
            }),
            _ => Err(bad()),
        }
    }
}

/// A bundle whose files are there.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub(crate) criu: PathBuf,
    pub(crate) preload: PathBuf,
    pub(crate) hook: PathBuf,
    version: CriuVersion,
}

impl Bundle {
    /// Opens the bundle in `dir`. It must be visible under the same path wherever CRIU is to run.
    ///
    /// # Errors
    /// A file is missing, or the version is not supported.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let preload = dir.join("lib/liblifeboat_preload.so");
        Self::with_tools(dir, &preload, &dir.join("bin/lifeboat-hook"))
    }

    /// As [`Bundle::open`], with the page filter and the hook from elsewhere.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn with_tools(dir: &Path, preload: &Path, hook: &Path) -> Result<Self, BundleError> {
        let criu = dir.join("bin/criu");
        for path in [&criu, preload, hook] {
            std::fs::metadata(path).map_err(|source| BundleError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        }
        let version = read_version(&dir.join(VERSION_FILE))?;
        if (version.major, version.minor) != (4, 2) {
            return Err(BundleError::Version {
                found: version,
                wanted: "4.2",
            });
        }
        Ok(Self {
            criu,
            preload: preload.to_owned(),
            hook: hook.to_owned(),
            version,
        })
    }

    /// The bundled CRIU's version.
    #[must_use]
    pub fn version(&self) -> CriuVersion {
        self.version
    }
}

fn read_version(path: &Path) -> Result<CriuVersion, BundleError> {
    let text = std::fs::read(path).map_err(|source| BundleError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&text[..text.len().min(VERSION_FILE_BYTES_MAX)]);
    text.lines()
        .find_map(|line| line.strip_prefix("criu=")?.trim().parse().ok())
        .ok_or_else(|| BundleError::NoVersion {
            path: path.to_owned(),
        })
}
