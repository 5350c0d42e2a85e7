//! Whether a create would succeed on this host, and if not, why.

use std::sync::Arc;

use tokio::sync::watch;

use crate::sandboxes::Keeper;
use crate::sandboxes::floor::Floor;

/// A sandbox of the usual disk size must fit.
const USUAL_DISK: u64 = 5 << 30;

#[derive(Clone)]
pub struct Readiness {
    pub keeper: Keeper,
    pub floor: Arc<Floor>,
    pub pool_reserve_bytes: u64,
    /// Whether the host's tunnel is open, if control can reach it in no other way.
    pub tunnel: Option<watch::Receiver<bool>>,
}

impl Readiness {
    /// What stands in the way of a create.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(reason) = self.keeper.closed_because() {
            return Some(reason.to_owned());
        }
        if self.tunnel.as_ref().is_some_and(|open| !*open.borrow()) {
            return Some("the tunnel to control is not open".to_owned());
        }
        if self.floor.pool.is_read_only() {
            return Some(
                "the storage pool has turned read-only, as it does when the disk below it is filled by others: free \
                 space there and reboot this machine; its sandboxes are on the disk"
                    .to_owned(),
            );
        }
        if let Err(full) = self.floor.pool.admit(USUAL_DISK) {
            return Some(full.to_string());
        }
        match self.floor.pool.available_bytes() {
            Ok(available) if available < self.pool_reserve_bytes => {
                Some(format!("the storage pool has only {available} bytes left"))
            }
            Ok(_) => None,
            Err(error) => Some(format!("the storage pool can't be read: {error}")),
        }
    }
}
