//! The host agent: the sandboxes of one machine, and its place among the hosts of a control plane.
//!
//! Floors from top to bottom: [`agent`] (enrolment, heartbeat, the service that control calls, the proxy into sandboxes),
//! [`history`] (what sandboxes used), [`sandboxes`] (who keeps them, records, recovery), [`driver`] with its zygote,
//! `volume_files` and `volume_fuse` (what is in shared volumes, for control and for machines), then `network`, `images`, `storage`, `slots`, `cgroup` and `aside`. Every use points down. [`start`] and [`run`] are the way in; [`check`] looks without touching.

pub mod agent;
mod aside;
pub mod cgroup;
pub mod config;
pub mod driver;
pub mod history;
pub mod images;
pub mod instance;
pub mod network;
pub mod sandboxes;
pub mod slots;
pub mod storage;
pub mod volume_files;
mod volume_fuse;
pub mod zygote;

pub use agent::handle::{HostHandle, Status, enrolled_host};
pub use agent::preflight::check;
pub use agent::run::{NotEnrolled, run, start};
pub use config::{DriverChoice, HostConfig, Limits, OnDisconnect};

/// A place where fault tests make a step fail (`return`) or the whole agent die (`return(abort)`). Nothing in a release.
/// With a second argument, that is what the step answers; otherwise an order's error.
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint!(
            $name,
            Err($crate::sandboxes::OrderError::Failed { attempted: $name, cause: "a failpoint".to_owned() })
        )
    };
    ($name:literal, $answer:expr) => {
        fail::fail_point!($name, |argument: Option<String>| {
            if argument.as_deref() == Some("abort") {
                std::process::abort();
            }
            $answer
        })
    };
}
pub(crate) use failpoint;
