//! The self-contained CRIU that is run: program, libraries, page filter, hook.
//!
//! ```text
//! DIR/bin/criu  DIR/lib/…  DIR/lib/liblifeboat_preload.so  DIR/bin/lifeboat-hook  DIR/VERSION
//! ```

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// File that names the bundled CRIU's version, as `criu=MAJOR.MINOR[.PATCH]` on a line.
const VERSION_FILE: &str = "VERSION";

/// Largest [`VERSION_FILE`] that is read, in bytes.
const VERSION_FILE_BYTES_MAX: usize = 4096;

/// How long each program may take in [`Bundle::check`].
const CHECK_WITHIN: Duration = Duration::from_secs(20);

/// Most lines of a program that an error quotes.
const EXCERPT_LINES_MAX: usize = 5;

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
    /// A program of it does not run here.
    #[error("criu bundle: run {path}", path = path.display())]
    Run {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// CRIU cannot work on this machine, or the page filter cannot be loaded into it.
    #[error("criu bundle: {asked} says: {said}")]
    Unfit {
        /// What was asked.
        asked: &'static str,
        /// The answer, at most a few lines.
        said: String,
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

    /// Runs the bundle's programs: CRIU is of the version that the bundle says, the page filter can
    /// be loaded into it, and it finds what it needs on this machine.
    ///
    /// # Errors
    /// [`BundleError::Run`], [`BundleError::Version`] or [`BundleError::Unfit`].
    pub async fn check(&self) -> Result<(), BundleError> {
        let asked = "criu --version";
        let (_, said) = self.ask("--version").await?;
        let version = said
            .lines()
            .find_map(|line| line.strip_prefix("Version:")?.trim().parse().ok());
        let unfit = |said: &str| BundleError::Unfit {
            asked,
            said: excerpt(said),
        };
        let found: CriuVersion = version.ok_or_else(|| unfit(&said))?;
        if found != self.version {
            return Err(BundleError::Version {
                found,
                wanted: "the one that it says",
            });
        }
        // The loader's words for a library that does not fit.
        if said.contains("cannot be preloaded") {
            return Err(unfit(&said));
        }
        match self.ask("check").await? {
            (true, _) => Ok(()),
            (false, said) => Err(BundleError::Unfit {
                asked: "criu check",
                said: excerpt(&said),
            }),
        }
    }

    /// Whether CRIU succeeds, and all that it says.
    async fn ask(&self, argument: &str) -> Result<(bool, String), BundleError> {
        let mut command = tokio::process::Command::new(&self.criu);
        command
            .arg(argument)
            .env("LD_PRELOAD", &self.preload)
            .kill_on_drop(true);
        let run = |source| BundleError::Run {
            path: self.criu.clone(),
            source,
        };
        let output = tokio::time::timeout(CHECK_WITHIN, command.output()).await;
        let output = output
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(run)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
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

fn excerpt(said: &str) -> String {
    let lines = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(EXCERPT_LINES_MAX);
    let text = lines.collect::<Vec<_>>().join("; ");
    text.chars()
        .take(1000)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_minor() {
        let version = |text: &str| text.parse::<CriuVersion>();
        assert_eq!(version("4.2").expect("good").to_string(), "4.2.0");
        let (a, b) = (
            version("4.2.1").expect("good"),
            version("4.2.7").expect("good"),
        );
        assert!(a.reads_images_of(b));
        assert!(!a.reads_images_of(version("4.1.1").expect("good")));
        for bad in ["", "4", "4.", "4.2.1.0", "4.2-rc", "v4.2", "4.99999"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }
}
