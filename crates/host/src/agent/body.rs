//! What the heartbeat says of the host, and does to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use atoll_model::api::hosts::{Capacity, HeartbeatRequest, HostSpecs, SandboxCounts};

use super::heartbeat::Body;
use super::heartbeat::decision::PauseCause;
use super::machine_specs::disk_bytes;
use super::readiness::Readiness;
use crate::sandboxes::{HOST_DISCONNECTED, Keeper};

/// Cached images that are named in a heartbeat; the scheduler only prefers by them.
const MAX_IMAGES: usize = 256;

pub struct HostBody {
    pub keeper: Keeper,
    pub readiness: Readiness,
    pub specs: HostSpecs,
    pub address: String,
    pub boot_id: String,
    pub data_dir: PathBuf,
    /// The last report named only what had been found by then.
    pub told_of_some: AtomicBool,
}

#[async_trait]
impl Body for HostBody {
    fn report(&self) -> HeartbeatRequest {
        // Asked first: what is found afterwards can only be more.
        let inventory_complete = self.keeper.inventory_complete();
        self.told_of_some.store(!inventory_complete, Ordering::Release);
        let tally = self.keeper.tally();
        let mut cached_images = self.readiness.floor.images.list().unwrap_or_default();
        cached_images.truncate(MAX_IMAGES);
        HeartbeatRequest {
            agent_version: self.specs.agent_version.clone(),
            boot_id: self.boot_id.clone(),
            address: self.address.clone(),
            capacity: Capacity {
                cpu_millis: u64::from(self.specs.cpu_cores) * 1000,
                memory_mb: self.specs.memory_mb,
                disk_mb: disk_bytes(&self.data_dir) >> 20,
            },
            // What is promised, not what is touched: the scheduler must not promise it again.
            used: Capacity {
                cpu_millis: tally.vcpus * 1000,
                memory_mb: tally.memory_bytes >> 20,
                disk_mb: tally.disk_bytes >> 20,
            },
            sandbox_counts: SandboxCounts { running: tally.running, paused: tally.paused, other: tally.other },
            sandbox_digest: self.keeper.digest(),
            inventory_complete,
            ready: self.readiness.problem().is_none(),
            going_offline: false,
            cached_images,
            drivers: self.specs.drivers.clone(),
            vm_version: self.readiness.floor.driver.vm_version(),
        }
    }

    /// Control waits for the rest of the list.
    async fn news(&self) {
        self.keeper.all_found().await;
        if !self.told_of_some.load(Ordering::Acquire) {
            std::future::pending().await
        }
    }

    fn accept_work(&self, accept: bool) {
        self.keeper.set_welcome(accept);
    }

    fn out_of_contact(&self, lost: bool) {
        self.keeper.set_out_of_contact(lost);
    }

    async fn pause_all(&self, _: PauseCause) -> bool {
        self.keeper.all_found().await;
        // One reason for both causes: when control is back, or trusts this host again, it orders the resume.
        let (paused, left) = self.keeper.pause_all(HOST_DISCONNECTED).await;
        tracing::warn!(paused, left, "sandboxes were paused until control orders otherwise");
        left == 0
    }
}
