//! What tests across crates share: a real Atoll on a data directory of its own, its client, its command line, and the
//! check that nothing of it is left.
//!
//! Tests never share an Atoll: each starts one (about a second), so that they run side by side and one that fails
//! harms no other. What an Atoll leaves in the kernel bears its instance id, so a test can tell its own.

pub mod atoll;
pub mod balancer;
pub mod cluster;
pub mod command;
pub mod invariants;
pub mod leaks;
pub mod registry;
pub mod replicas;
pub mod s3;
pub mod simulation;
pub mod skopeo;
pub mod terminal;
pub mod wait;

pub use atoll::Atoll;
pub use cluster::Cluster;
pub use terminal::Terminal;
pub use wait::until;
