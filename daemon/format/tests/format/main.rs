//! What the stored format promises to whoever reads it.

mod codec;
mod document;
mod golden;
mod index;
mod manifest;
mod mutations;
mod pack;
mod properties;
mod sample;
