//! What the stored format promises to whoever reads it.

mod index;
mod manifest;
mod pack;
mod sample;
