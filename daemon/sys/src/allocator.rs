//! glibc's allocator, set up for few large buffers that come and go on many threads.
//!
//! By default each thread gets an arena of its own, and what was a large buffer once is later taken
//! from arenas, which give nothing back while anything in them is used (mallopt(3)): a daemon whose
//! buffers never exceed 100 MiB at a time was seen to hold 400 MiB.

/// Most arenas.
const ARENAS_MAX: libc::c_int = 2;

/// Allocations of at least this size, in bytes, are mappings of their own, and end with them.
const MAPPED_BYTES_MIN: libc::c_int = 256 << 10;

/// Free memory at the end of an arena above this size, in bytes, is given back.
const TRIMMED_BYTES_MIN: libc::c_int = 1 << 20;

/// Sets the allocator up. Call it before there are other threads. Where it is not glibc's, or
/// refuses, memory is as it was.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, TRIMMED_BYTES_MIN),
    ] {
        // SAFETY: mallopt takes two numbers, and may be called at any time.
        let _refused = unsafe { libc::mallopt(parameter, value) };
    }
}
