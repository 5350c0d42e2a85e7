//! The zygote: a small single-threaded process from which all sandboxes are cloned.
//!
//! The agent has many threads, and a fork of a threaded process may hardly do anything. So the agent re-executes
//! itself as `atoll zygote` ([`zygote_main`]), which keeps one thread and, in a private mount namespace, a root that is
//! nearly empty: a proc, a sysfs and some directories to mount on. What a clone has to copy is small, and what a
//! sandbox could reach through its old root, were it not detached, is nothing.
//!
//! ```text
//! agent                          zygote                         child (becomes the guest agent)
//!   | -- CloneRequest, status socket -> |                            |
//!   |                                   | -- clone3, id maps ------> |
//!   | <- Cloned, pidfd (status socket)  |  (next request)            |
//!   | -- Plan, descriptors (status socket) ------------------------> | joins cgroups, limits itself
//!   | -- Go, idmapped mounts --------------------------------------> | mounts, pivots, drops everything, execs
//!   | <- Done with its steps, or Failed with step and errno -------- |
//! ```
//!
//! The zygote ends when the agent's end of the request socket closes. It never touches what the agent owns: no
//! descriptor but the request socket survives its first lines. Sandboxes outlive it; nothing sets a parent-death
//! signal. Files: [`serve`](mod@serve) the loop, [`child`] the order of a launch, [`mounts`] its file systems, [`etc`]
//! who it is,
//! [`confine`] what it may do, [`seccomp`] the profile, [`wire`] the messages, [`handle`] the agent's side.

mod child;
mod confine;
pub(crate) mod etc;
mod handle;
mod mounts;
pub(crate) mod seccomp;
mod serve;
pub(crate) mod sys;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod wire;

pub use handle::{Zygote, ZygoteCommand};
pub(crate) use mounts::{MAX_LOWERS, MAX_VOLUMES};
pub(crate) use serve::PROGRAM_GROUP;
pub use serve::zygote_main;
