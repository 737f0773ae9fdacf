//! The page server against real processes: a program (`target.c`) whose memory it loads, which
//! knows what every byte must be.

mod random;
mod source;
mod target;
