//! Nodes, holds and stores for tests.

mod build;
mod hold;
mod node;
mod proxy;
mod store;
mod wait;

pub(crate) use build::{c_program, check_count, counter};
pub(crate) use hold::{Hold, HoldOptions};
pub(crate) use node::{Node, NodeOptions};
pub(crate) use proxy::{Door, Proxy};
pub(crate) use store::TestStore;
pub(crate) use wait::eventually;
