//! Two drivers side by side: what a sandbox was launched with decides which one is asked about it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use atoll_model::{LayerId, SandboxId};
use futures::future::BoxFuture;

use super::vm::VmDriver;
use super::{
    ContainerDriver, Driver, DriverError, InitProcess, Kind, LaunchSpec, NetworkAttach, Paused, Running, SharedVolume,
    Steps, Usage,
};

#[derive(Debug)]
pub struct Both {
    pub container: Arc<ContainerDriver>,
    pub vm: Arc<VmDriver>,
}

impl Both {
    /// The driver of a sandbox that was launched. A machine is known by its cgroup, so this holds over restarts.
    fn of(&self, id: &SandboxId) -> &dyn Driver {
        if self.vm.owns(id) { &*self.vm } else { &*self.container }
    }
}

#[async_trait]
impl Driver for Both {
    async fn launch(
        &self,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        trace: &mut Steps,
    ) -> Result<Running, DriverError> {
        match spec.kind {
            Kind::Container => self.container.launch(spec, network, trace).await,
            Kind::Vm => self.vm.launch(spec, network, trace).await,
        }
    }

    async fn adopt(&self, id: &SandboxId, init: &InitProcess, volumes: Vec<SharedVolume>) -> Option<Running> {
        self.of(id).adopt(id, init, volumes).await
    }

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError> {
        self.of(id).pause(id).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.of(id).resume(id).await
    }

    async fn reclaim(&self, id: &SandboxId) -> u64 {
        self.of(id).reclaim(id).await
    }

    async fn settle(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.of(id).settle(id).await
    }

    async fn keep(
        &self,
        id: &SandboxId,
        layer: &LayerId,
        memory: bool,
        files: BoxFuture<'_, bool>,
    ) -> Result<bool, DriverError> {
        let vm = self.vm.owns(id) || self.vm.is_stored(id);
        let driver: &dyn Driver = if vm { &*self.vm } else { &*self.container };
        driver.keep(id, layer, memory, files).await
    }

    fn has_memory(&self, layer: &LayerId) -> bool {
        self.vm.has_memory(layer)
    }

    fn memories(&self) -> Vec<LayerId> {
        self.vm.memories()
    }

    fn vm_version(&self) -> Option<String> {
        self.vm.vm_version()
    }

    fn memory_version(&self, layer: &LayerId) -> Option<String> {
        self.vm.memory_version(layer)
    }

    fn forget_memory(&self, layer: &LayerId) -> io::Result<()> {
        self.vm.forget_memory(layer)
    }

    fn pack_machine(&self, layer: &LayerId, disk: &Path, into: &mut dyn Write) -> io::Result<()> {
        self.vm.pack_machine(layer, disk, into)
    }

    fn unpack_machine(&self, layer: &LayerId, from: &mut dyn Read, disk: &File) -> io::Result<()> {
        self.vm.unpack_machine(layer, from, disk)
    }

    fn lay_down(&self, id: &SandboxId, volume: &Path, layer: &LayerId, disk: &Path) -> io::Result<bool> {
        self.vm.lay_down(id, volume, layer, disk)
    }

    fn is_paused(&self, id: &SandboxId) -> bool {
        self.of(id).is_paused(id)
    }

    fn is_stored(&self, id: &SandboxId) -> bool {
        self.vm.is_stored(id)
    }

    fn begun(&self, id: &SandboxId) -> Option<InitProcess> {
        self.vm.begun(id)
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.of(id).kill(id).await
    }

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.of(id).clean_up(id).await
    }

    fn cpu_usec(&self, id: &SandboxId) -> Result<u64, DriverError> {
        self.of(id).cpu_usec(id)
    }

    fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        self.of(id).usage(id)
    }

    fn leftovers(&self) -> Vec<SandboxId> {
        let mut all = self.container.leftovers();
        all.extend(self.vm.leftovers());
        all
    }

    async fn shut_down(&self) {
        self.vm.shut_down().await;
        self.container.shut_down().await;
    }
}
