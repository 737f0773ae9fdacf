//! Client of the Lifeboat daemon: a typed, asynchronous connection to its API, and the hold that
//! workloads run under.
//!
//! ```no_run
//! # async fn example() -> Result<(), lifeboat_client::ClientError> {
//! use lifeboat_client::{Client, Endpoint};
//!
//! let mut client = Client::connect(&Endpoint::default()).await?;
//! for workload in client.list().await? {
//!     println!("{} {:?}", workload.name, workload.time_to_safe);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod endpoint;
pub mod error;
pub mod hold;

pub use client::{Client, SaveEvent, SaveStream, Selected};
pub use endpoint::{DEFAULT_SOCKET, Endpoint};
pub use error::ClientError;
