//! Safe wrappers over the kernel interfaces that Lifeboat needs: the only unsafe code of the
//! daemon.
//!
//! Every function is synchronous and bounded: what can wait takes a deadline. Nothing here knows
//! about workloads, images or stores. Linux on x86-64; what depends on the architecture is in
//! `arch`.
//!
//! Modules in reading order, with the kernel each needs at least:
//!
//! | Module | What for | Kernel |
//! |---|---|---|
//! | [`wait`] | wait for a descriptor until a deadline | any |
//! | [`fdpass`] | bytes and descriptors over Unix sockets | any |
//! | [`pidfd`] | processes that cannot be mistaken | 5.6 |
//! | [`peer`] | who is at the other end of a socket | 5.3; without a race 6.5 |
//! | [`spawn`] | descriptors, session, signals, terminal, namespaces of a child | any |
//! | [`namespace`] | namespaces, numbers in them, process trees | 5.6 |
//! | [`kcmp`] | whether two processes share memory | 3.5 |
//! | [`maps`] | mappings and their flags | any |
//! | [`shared`] | anonymous shared memory of this process | any |
//! | [`vm`] | memory of another process | any |
//! | [`shmem`] | objects of shared memory | 3.17 |
//! | [`pagemap`] | which pages hold something, which were written | 6.7 |
//! | [`tracer`] | stop a thread, have it do system calls, leave it as it was | 5.3 |
//! | [`remote`] | take a userfaultfd out of another process | 5.11 |
//! | [`uffd`] | page faults of another process, its write protection | 5.11; asynchronous 6.7 |
//! | [`allocator`] | give freed memory back | any |
//! | [`probe`] | what of all this works here | any |

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("lifeboat-sys supports 64-bit Linux only");

mod arch;
mod flags;
mod ioctl;

pub mod allocator;
pub mod fdpass;
pub mod kcmp;
pub mod maps;
pub mod namespace;
pub mod pagemap;
pub mod peer;
pub mod pidfd;
pub mod probe;
pub mod remote;
pub mod shared;
pub mod shmem;
pub mod spawn;
pub mod tracer;
pub mod uffd;
pub mod vm;
pub mod wait;
