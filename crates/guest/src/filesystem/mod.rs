//! Names, attributes and watches: the filesystem service of the E2B protocol. Contents are `files`' subject.
//!
//! - `entry`: one file as callers see it.
//! - `tree`: making, listing, moving and removing.
//! - `watch`: what changes below a directory.
//! - `service`: the RPCs.

pub mod entry;
pub mod service;
pub mod tree;
pub mod watch;
