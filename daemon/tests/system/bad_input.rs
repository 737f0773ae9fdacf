//! Whatever is wrong with what comes in is said in words, panics nobody, and loses nothing.

mod names;
mod objects;
mod socket;
