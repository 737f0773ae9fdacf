//! Where a daemon is.

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where a daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lifeboat/lifeboatd.sock";

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP listener, as `http://HOST:PORT`.
    Http(String),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

impl FromStr for Endpoint {
    type Err = Infallible;

    /// `http://…` and `https://…` are TCP listeners; everything else is the path of a Unix socket,
    /// with or without `unix:` before it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(
            if text.starts_with("http://") || text.starts_with("https://") {
                Self::Http(text.to_owned())
            } else {
                let path = text.strip_prefix("unix:").unwrap_or(text);
                let path = path.strip_prefix("//").map_or(path, |rest| rest);
                Self::Unix(path.into())
            },
        )
    }
}

impl Endpoint {
    /// The path of the Unix socket, if it is one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Http(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Http(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_unless_they_say_otherwise() {
        for (text, path) in [
            ("/run/x.sock", "/run/x.sock"),
            ("unix:/run/x.sock", "/run/x.sock"),
            ("unix:///run/x.sock", "/run/x.sock"),
            ("x.sock", "x.sock"),
        ] {
            assert_eq!(text.parse(), Ok(Endpoint::Unix(path.into())), "{text}");
        }
        let http = "http://127.0.0.1:7000";
        assert_eq!(http.parse(), Ok(Endpoint::Http(http.into())));
    }
}
