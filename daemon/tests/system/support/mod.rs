//! Nodes, holds and stores for tests.

mod hold;
mod node;
mod store;
mod wait;

pub(crate) use hold::{Hold, HoldOptions};
pub(crate) use node::Node;
pub(crate) use store::TestStore;
pub(crate) use wait::eventually;
