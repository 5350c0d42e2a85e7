//! Where a host is: the fleet asks, whoever knows the database answers.

use async_trait::async_trait;
use atoll_model::HostId;

use super::FleetError;
use crate::db::Millis;

/// Where a host is reached, and which certificate it must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLocation {
    /// `host:port`; of a host that is reached through its tunnel, [`TUNNEL_ADDRESS`].
    ///
    /// [`TUNNEL_ADDRESS`]: atoll_model::api::hosts::TUNNEL_ADDRESS
    pub address: String,
    /// The connection that the host keeps open, and the replica that holds it.
    pub tunnel: Option<TunnelPlace>,
    /// When it came to its present status. Connections from before it was away are not used again: they may be dead
    /// without knowing it.
    pub since: Millis,
    /// SHA-256 of the subject public key (SPKI, DER) that the host registered with. A certificate of another key is
    /// refused even if control's CA signed it: it belongs to an enrolment that has been replaced.
    pub key_sha256: [u8; 32],
    /// Fingerprint of the certificate last issued to it. Not what it must show (it may not have got it yet): a change
    /// of it renews the pooled connections.
    pub certificate: String,
}

/// Where the tunnel of a host ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlace {
    /// Names this one connection.
    pub connection: String,
    pub replica: String,
    /// `host:port` of that replica, for the others.
    pub advertise: Option<String>,
}

/// Knows every registered host's location. Asked on every call, so it answers from memory nearly always.
#[async_trait]
pub trait HostDirectory: Send + Sync + 'static {
    /// `FleetError::Unknown` for a host that does not exist, is deleted, or has never registered.
    async fn locate(&self, host: &HostId) -> Result<HostLocation, FleetError>;
}
