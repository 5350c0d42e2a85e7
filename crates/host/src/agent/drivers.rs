//! Which drivers this host offers: what its setting says, as far as the machine can do it.
//!
//! | `--driver` | KVM proven | software only |
//! | --- | --- | --- |
//! | `container` | container | container |
//! | `vm` | vm | vm |
//! | `auto` | vm, container | container; vm too where a kernel for it has been fetched already |
//!
//! The first is for sandboxes that don't mind.

use anyhow::Context;

use crate::config::{DriverChoice, HostConfig};
use crate::driver::vm::{self, Accel, Kernel, VmConfig, VmDriver};
use crate::instance::Instance;
use crate::sandboxes::Record;
use crate::sandboxes::spec::{DRIVER_CONTAINER, DRIVER_VM};

/// The drivers on offer, the preferred one first.
pub(super) async fn on_offer(config: &HostConfig) -> anyhow::Result<Vec<String>> {
    let (choice, cache, guest) = (config.driver, config.cache_dir.clone(), config.guest_binary);
    if choice == DriverChoice::Container {
        return Ok(vec![DRIVER_CONTAINER.to_owned()]);
    }
    // Looks at the disk, tries KVM, and may have to fetch a kernel.
    let looked = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<&'static str>> {
        if choice == DriverChoice::Vm {
            vm::has_qemu().map_err(anyhow::Error::msg)?;
            Kernel::ensure(&cache, guest)?;
            return Ok(vec![DRIVER_VM]);
        }
        if vm::has_qemu().is_err() {
            return Ok(vec![DRIVER_CONTAINER]);
        }
        if Accel::of_this_machine(&cache, guest) == Accel::Kvm {
            match Kernel::ensure(&cache, guest) {
                Ok(_) => return Ok(vec![DRIVER_VM, DRIVER_CONTAINER]),
                Err(error) => tracing::warn!(%error, "KVM works here, but sandboxes are containers"),
            }
        }
        let fetched = Kernel::cached(&cache, guest).unwrap_or_default();
        Ok(if fetched.is_some() { vec![DRIVER_CONTAINER, DRIVER_VM] } else { vec![DRIVER_CONTAINER] })
    });
    let drivers = looked.await.context("looking for what virtual machines need")?;
    let drivers = drivers.context("offering the driver `vm`")?;
    Ok(drivers.into_iter().map(str::to_owned).collect())
}

/// The vm driver, if it is on offer, or if there are machines from a time when it was.
pub(super) async fn machines(
    config: &HostConfig,
    instance: &Instance,
    found: &[Record],
    drivers: &[String],
) -> anyhow::Result<Option<VmDriver>> {
    let offered = drivers.iter().any(|driver| driver == DRIVER_VM);
    if !offered && !found.iter().any(|record| record.spec.driver == DRIVER_VM) {
        let id = instance.id().to_owned();
        match tokio::task::spawn_blocking(move || vm::end_strays(&id)).await.context("looking for machines")? {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "machines that no record knows can't be ended"),
        }
        return Ok(None);
    }
    let (cache, guest) = (config.cache_dir.clone(), config.guest_binary);
    let (id, sandboxes) = (instance.id().to_owned(), instance.data_dir().join("sandboxes"));
    let started = tokio::task::spawn_blocking(move || -> anyhow::Result<VmDriver> {
        let kernel = Kernel::ensure(&cache, guest)?;
        let accel = Accel::of_this_machine(&cache, guest);
        Ok(VmDriver::start(VmConfig::new(&id, sandboxes, kernel, accel))?)
    });
    Ok(Some(started.await.context("starting the vm driver")?.context("starting the vm driver")?))
}
