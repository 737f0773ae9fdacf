//! Who says that this machine will go.
//!
//! Each source (`gce`, `aws`, `azure`, `kubernetes`, `logind`, `file`, `signal`) is a small
//! module with one loop. It reports what it *sees* ([`Sighting`]) and what it no longer sees into a
//! [`Feed`]; [`Merge`] makes one stream of [`Change`]s of all of them: the same event seen twice is one
//! notice, and an event that is taken back is a change of its own.
//!
//! A source that fails goes on trying, with a pause: an error is never taken for "no notice", and never
//! for one. What each source is doing, and when it last succeeded and failed, is on the [`Board`].
//!
//! Metadata servers are asked with a client that knows no proxy, follows no redirect, reads a bounded
//! body, and gives up at a deadline ([`mod@client`]).
#![forbid(unsafe_code)]

mod aws;
mod azure;
mod board;
pub mod client;
mod clock;
mod config;
mod detect;
mod feed;
mod file;
mod gce;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(feature = "logind")]
mod logind;
mod merge;
mod notice;
mod signal;
mod watching;

pub use self::{
    board::{Board, SourceStatus},
    config::{
        AwsConfig, AzureConfig, CloudChoice, GceConfig, KubernetesConfig, LogindConfig, WatchConfig,
    },
    detect::Cloud,
    feed::{Feed, NOTICES_MAX},
    merge::{Merge, SIGHTINGS_MAX},
    notice::{Change, Confidence, Kind, Notice, Scope, Sighting, Source},
    signal::machine_is_stopping,
    watching::{Answered, Detected, Saved, Setup, Tasks, Watching, start},
};
