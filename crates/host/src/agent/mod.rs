//! One host's agent: enrolled with control, listening to it alone, telling it every few seconds that it lives.
//!
//! [`run::Agent`] puts it together. Below are [`crate::sandboxes`] and, through them, driver, network, images and
//! storage; nothing down there knows of control.

mod body;
mod control;
pub(crate) mod credentials;
mod dial;
mod drivers;
mod early;
mod endpoint;
mod enrolment;
mod foundations;
pub mod handle;
pub mod heartbeat;
mod identity_source;
mod image_files;
mod image_room;
mod image_source;
mod key;
mod listener;
mod machine_specs;
mod peer;
pub mod preflight;
pub(crate) mod proxy;
mod readiness;
mod registration_token;
mod renewal;
pub mod run;
mod service;
#[cfg(test)]
mod tests;
mod tombstone;
pub(crate) mod trust;
mod tunnel;
mod volume_files;
