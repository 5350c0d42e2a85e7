//! Why something could not be done with a sandbox.

use atoll_model::SandboxStatus;

use super::wanted::MIN_MACHINE_MB;
use crate::db::DbError;
use crate::fleet::{FleetError, NoHost};
use crate::layers::LayerError;
use crate::quotas::QuotaError;
use crate::secrets::SecretError;
use crate::templates::shipped::ShippedError;
use crate::volumes::VolumeError;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is none, or it is another team's.
    #[error("there is no such sandbox")]
    NotFound,
    #[error("there is no template `{name}`")]
    NoTemplate { name: String },
    /// The one that Atoll makes itself, first thing.
    #[error("the template `base` is being made; try again in a minute")]
    NoBase,
    /// There is one, but no build of it has come to a good end yet.
    #[error("the template `{name}` was never built")]
    NotBuilt { name: String },
    /// It holds what one driver has left, which another can't go on with.
    #[error("the template `{template}` is for the driver `{driver}`")]
    WrongDriver { template: String, driver: String },
    /// No kernel of its own fits into that, and no host would make it without.
    #[error("must be at least {MIN_MACHINE_MB} for a virtual machine, which is what its hosts make")]
    TooSmall,
    /// It was to begin with memory.
    #[error("{0}")]
    NoMemory(String),
    /// One that ships, and is built at its first use.
    #[error(transparent)]
    Shipped(#[from] ShippedError),
    /// What was asked for can't be done in this status.
    #[error("can't {attempted} a sandbox that is {status}")]
    InvalidState { attempted: &'static str, status: SandboxStatus },
    /// It changed while the request was under way.
    #[error("the sandbox changed while the request to {attempted} it was under way")]
    Changed { attempted: &'static str },
    #[error(transparent)]
    NoHost(#[from] NoHost),
    /// Every host that was asked said that it has no room, although it should have had by what control knows.
    #[error("the hosts have no room: {0}")]
    Full(String),
    /// More creates wait than are let through in time.
    #[error("too many sandboxes are being created; try again in a moment")]
    Queue,
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error("could not list the hosts")]
    ListHosts(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What it stands on can't be had.
    #[error(transparent)]
    Layers(#[from] LayerError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Host(#[from] FleetError),
    #[error(transparent)]
    Db(#[from] DbError),
    /// The task that did the work ended without an answer: control is shutting down, or a bug.
    #[error("the work on the sandbox ended without an answer")]
    Interrupted,
}
