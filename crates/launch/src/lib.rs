//! The launcher of container sandboxes. A **zygote**, a small single-threaded process, is cloned for each sandbox, and
//! the clone becomes the guest agent: there is no exec on the way, so a sandbox pays neither for a program's start nor
//! for what the C library asks of the processor then (in a virtual machine each such question is answered by its host).
//!
//! The agent has many threads, and a fork of a threaded process may hardly do anything. So the agent executes the guest
//! agent's own program by its bare [`NAME`], and that calls [`zygote_main`]. The zygote keeps one thread and, in a
//! private mount namespace, a root that is nearly empty: a proc, a sysfs and some directories to mount on. What a clone
//! has to copy is small; what a sandbox could reach through its old root, were it not detached, is nothing; and what it
//! could read of its memory (the guest agent closes it to everybody inside) is a program that has been told no secret.
//! What is drawn before the clone all sandboxes have in common: that is the C library's own canary and its heap's key, and
//! nothing of ours, so a random number is wanted only in the guest.
//!
//! ```text
//! agent                          zygote                         child (becomes the guest agent)
//!   | -- CloneRequest, status socket -> |                            |
//!   |                                   | -- clone3, id maps ------> |
//!   | <- Cloned, pidfd (status socket)  |  (next request)            |
//!   | -- Plan, descriptors (status socket) ------------------------> | joins cgroups, limits itself
//!   | -- Go, idmapped mounts --------------------------------------> | mounts, pivots, drops everything
//!   | <- Done with its steps, or Failed with step and errno -------- |
//! ```
//!
//! The zygote ends when the agent's end of the request socket closes. It never touches what the agent owns: no
//! descriptor but the request socket survives its first lines. Sandboxes outlive it; nothing sets a parent-death
//! signal. Files: [`serve`](mod@serve) the loop, [`child`] the order of a launch, [`mounts`] its file systems, [`etc`]
//! who it is, [`confine`] what it may do, [`seccomp`] the profile, [`wire`] the messages, [`shared`] the names in the
//! small file system that the agent makes for each sandbox; [`lend`](mod@lend) is for the processes of virtual machines. The
//! agent's side is `atoll_host::zygote`.

mod child;
mod confine;
pub mod etc;
pub mod lend;
mod mounts;
mod seccomp;
mod serve;
pub mod shared;
pub mod sys;
pub mod wire;

pub use mounts::{MAX_LOWERS, MAX_VOLUMES};
pub use serve::zygote_main;

/// The ids of a sandbox: so many from its first one on.
pub const IDS_PER_SANDBOX: u32 = 1 << 16;
/// What the program is called (`argv[0]`) when it shall be a zygote, without any argument: a command line can't be
/// changed later everywhere, and this is the one that people see inside for their PID 1.
pub const NAME: &str = "atoll-guest";
/// The environment that the zygote is started with, and the guest agent has; it gives its own processes their own.
pub const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")];
