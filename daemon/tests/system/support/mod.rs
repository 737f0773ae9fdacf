//! Nodes, holds and stores for tests.

mod build;
mod hold;
mod network;
mod node;
mod proxy;
mod seeds;
mod store;
mod unreliable;
mod wait;

pub(crate) use build::{c_program, check_count, counter};
pub(crate) use hold::{Hold, HoldOptions};
pub(crate) use network::Link;
pub(crate) use node::{Node, NodeOptions, program};
pub(crate) use proxy::{Door, Proxy};
pub(crate) use seeds::seeds;
pub(crate) use store::{Server, TestStore};
pub(crate) use unreliable::{Odds, Unreliable};
pub(crate) use wait::eventually;
