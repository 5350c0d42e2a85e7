//! Atoll's vocabulary, without I/O: ids, the two state machines, error codes, and the shapes of the REST API.
//!
//! Everything else in the workspace may depend on this crate; it depends on nothing of ours.
#![forbid(unsafe_code)]

pub mod api;
pub mod error;
pub mod host;
pub mod id;
pub mod sandbox;

pub use error::ErrorCode;
pub use host::{HostStatus, HostType};
pub use id::{
    ApiKeyId, AuditId, BuildId, DeliveryId, HostId, IdError, InvitationId, LayerId, SandboxId, SecretId, SessionId,
    SnapshotId, TeamId, TemplateId, UserId, VolumeId, WebhookId,
};
pub use sandbox::{OnTimeout, SandboxStatus};
