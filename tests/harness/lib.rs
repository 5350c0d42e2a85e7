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

/// Whether the sandboxes of these tests are virtual machines: the suite runs so too (`ATOLL_DRIVER`).
#[must_use]
pub fn in_machines() -> bool {
    std::env::var("ATOLL_DRIVER").is_ok_and(|driver| driver == "vm")
}

/// Asserts that a sandbox of `megabytes` shows so much memory in the first line of its `/proc/meminfo`; a machine's kernel
/// keeps some for itself.
pub fn assert_memory(shown: &str, megabytes: u64) {
    let total = shown.trim().strip_prefix("MemTotal:").and_then(|rest| rest.trim().strip_suffix(" kB"));
    let total: u64 = total.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no total: {shown:?}"));
    let all = megabytes * 1024;
    let least = if in_machines() { all * 3 / 4 } else { all };
    assert!((least..=all).contains(&total), "{total} kB of {all}");
}
