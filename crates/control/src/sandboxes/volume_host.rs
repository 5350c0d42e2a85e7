//! Where a volume's files are, for whoever wants them without a sandbox.

use atoll_model::HostId;

use super::{SandboxError, Sandboxes};
use crate::fleet::{ANY_DRIVER, Demand};
use crate::volumes::store::VolumeRow;
use crate::volumes::{self, VolumeError};

impl Sandboxes {
    /// The host that has a volume's files. One that lies nowhere is given a host now, as a first sandbox would.
    ///
    /// # Errors
    /// When its host was deleted, none takes it, or it is gone.
    pub async fn host_of_volume(&self, volume: &VolumeRow, team_is_byoc: bool) -> Result<HostId, SandboxError> {
        if volume.lost {
            return Err(VolumeError::Lost(volume.name.clone()).into());
        }
        let host = match &volume.host_id {
            Some(host) if !volume.tentative => return Ok(host.0.clone()),
            Some(host) => host.0.clone(),
            None => {
                let demand = Demand {
                    team: volume.team_id.0.clone(),
                    team_is_byoc,
                    driver: ANY_DRIVER.to_owned(),
                    vm_version: None,
                    vcpus: 0,
                    memory_mb: 0,
                    disk_mb: 0,
                    image: None,
                    only: None,
                    volumes_on: None,
                    tried: Vec::new(),
                };
                self.placer.place(&demand).await?
            }
        };
        let settled = volumes::settle(&self.db, &volume.id, &host).await?;
        settled.ok_or_else(|| VolumeError::NotFound(volume.name.clone()).into())
    }
}
