//! Which drivers this host offers: what its setting says, as far as the machine can do it.
//!
//! | `--driver` | KVM proven | software only | no QEMU |
//! | --- | --- | --- | --- |
//! | `container` | container | container | container |
//! | `vm` | vm | vm | an error |
//! | `auto` | vm, container | container; vm too where a kernel for it has been fetched already | container |
//!
//! The first is for sandboxes that don't mind. Where no kernel can be had, `vm` is an error and `auto` does as in software.

use std::io;
use std::path::PathBuf;

use anyhow::Context;

use crate::config::{DriverChoice, HostConfig};
use crate::driver::vm::{self, Accel, Kernel, VmConfig, VmDriver};
use crate::instance::Instance;
use crate::sandboxes::Record;
use crate::sandboxes::spec::{DRIVER_CONTAINER, DRIVER_VM};

/// What can be asked of the machine. Some questions are dear, so each is asked only where the answer decides.
trait Probes {
    /// Whether the programs are there that machines are made with; or what is missing.
    fn qemu(&self) -> Result<(), &'static str>;
    /// Whether a system boots under KVM. Tried, once in each boot of the host.
    fn kvm(&self) -> bool;
    /// Sees to it that there is a kernel, which may have to be fetched.
    fn kernel(&self) -> io::Result<()>;
    /// Whether there is one already.
    fn has_kernel(&self) -> bool;
}

/// The machine that this runs on.
struct ThisMachine {
    cache: PathBuf,
    guest: &'static [u8],
}

impl Probes for ThisMachine {
    fn qemu(&self) -> Result<(), &'static str> {
        vm::has_qemu()
    }

    fn kvm(&self) -> bool {
        Accel::of_this_machine(&self.cache, self.guest) == Accel::Kvm
    }

    fn kernel(&self) -> io::Result<()> {
        Kernel::ensure(&self.cache, self.guest).map(drop)
    }

    fn has_kernel(&self) -> bool {
        Kernel::cached(&self.cache, self.guest).unwrap_or_default().is_some()
    }
}

/// The drivers on offer, the preferred one first.
pub(super) async fn on_offer(config: &HostConfig) -> anyhow::Result<Vec<String>> {
    let choice = config.driver;
    let machine = ThisMachine { cache: config.cache_dir.clone(), guest: config.guest_binary };
    let looked = tokio::task::spawn_blocking(move || offer(choice, &machine));
    let drivers = looked.await.context("looking for what virtual machines need")?;
    let drivers = drivers.context("offering the driver `vm`")?;
    Ok(drivers.iter().copied().map(str::to_owned).collect())
}

/// The table above.
fn offer(choice: DriverChoice, machine: &impl Probes) -> anyhow::Result<&'static [&'static str]> {
    match choice {
        DriverChoice::Container => Ok(&[DRIVER_CONTAINER]),
        DriverChoice::Vm => {
            machine.qemu().map_err(anyhow::Error::msg)?;
            machine.kernel()?;
            Ok(&[DRIVER_VM])
        }
        DriverChoice::Auto if machine.qemu().is_err() => Ok(&[DRIVER_CONTAINER]),
        DriverChoice::Auto => {
            if machine.kvm() {
                match machine.kernel() {
                    Ok(()) => return Ok(&[DRIVER_VM, DRIVER_CONTAINER]),
                    Err(error) => tracing::warn!(%error, "KVM works here, but sandboxes are containers"),
                }
            }
            Ok(if machine.has_kernel() { &[DRIVER_CONTAINER, DRIVER_VM] } else { &[DRIVER_CONTAINER] })
        }
    }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A machine of which this is so.
    #[derive(Debug, Clone, Default)]
    struct Told {
        qemu: bool,
        kvm: bool,
        /// One is there.
        has_kernel: bool,
        /// One can be had: it is there, or can be fetched.
        kernel: bool,
        asked: RefCell<Vec<&'static str>>,
    }

    impl Told {
        fn asked<T>(&self, what: &'static str, answer: T) -> T {
            self.asked.borrow_mut().push(what);
            answer
        }
    }

    impl Probes for Told {
        fn qemu(&self) -> Result<(), &'static str> {
            self.asked("qemu", self.qemu.then_some(()).ok_or("there is no QEMU"))
        }

        fn kvm(&self) -> bool {
            self.asked("kvm", self.kvm)
        }

        fn kernel(&self) -> io::Result<()> {
            self.asked("kernel", self.kernel.then_some(()).ok_or_else(|| io::Error::other("there is no kernel")))
        }

        fn has_kernel(&self) -> bool {
            self.asked("has_kernel", self.has_kernel)
        }
    }

    /// Every machine that there can be, by what is true of it.
    fn machines() -> impl Iterator<Item = Told> {
        (0..16).map(|bits: u8| {
            let bit = |place: u8| bits & (1 << place) != 0;
            Told { qemu: bit(0), kvm: bit(1), has_kernel: bit(2), kernel: bit(3), ..Told::default() }
        })
    }

    /// What is offered, or why nothing.
    fn offered(choice: DriverChoice, machine: &Told) -> String {
        offer(choice, machine).map_or_else(|error| error.to_string(), |drivers| drivers.join(", "))
    }

    #[test]
    fn every_setting_offers_on_every_machine_what_the_table_says() {
        use DriverChoice::{Auto, Container, Vm};
        let (no, yes, any) = (Some(false), Some(true), None);
        let table = [
            // setting, QEMU, KVM, a kernel is there, a kernel can be had: what is offered
            (Container, any, any, any, any, "container"),
            (Vm, no, any, any, any, "there is no QEMU"),
            (Vm, yes, any, any, no, "there is no kernel"),
            (Vm, yes, any, any, yes, "vm"),
            (Auto, no, any, any, any, "container"),
            (Auto, yes, no, no, any, "container"),
            (Auto, yes, no, yes, any, "container, vm"),
            (Auto, yes, yes, any, yes, "vm, container"),
            (Auto, yes, yes, no, no, "container"),
            (Auto, yes, yes, yes, no, "container, vm"),
        ];
        let fits = |said: Option<bool>, is: bool| said.is_none_or(|said| said == is);
        for choice in [Container, Vm, Auto] {
            for machine in machines() {
                let rows: Vec<_> = table
                    .iter()
                    .filter(|(of, qemu, kvm, has_kernel, kernel, _)| {
                        let is = [machine.qemu, machine.kvm, machine.has_kernel, machine.kernel];
                        *of == choice
                            && [*qemu, *kvm, *has_kernel, *kernel].into_iter().zip(is).all(|(a, b)| fits(a, b))
                    })
                    .collect();
                let [row] = rows[..] else { panic!("{choice:?} on {machine:?}: {rows:?}") };
                assert_eq!(offered(choice, &machine), row.5, "{choice:?} on {machine:?}");
            }
        }
    }

    #[test]
    fn nothing_dear_is_asked_for_nothing() {
        for machine in machines() {
            let asked = |choice| {
                let machine = Told { asked: RefCell::default(), ..machine.clone() };
                let _offered = offer(choice, &machine);
                machine.asked.into_inner()
            };
            assert!(asked(DriverChoice::Container).is_empty());
            assert!(!asked(DriverChoice::Vm).contains(&"kvm"), "it goes without");
            let auto = asked(DriverChoice::Auto);
            assert_eq!(auto.contains(&"kvm"), machine.qemu);
            assert_eq!(auto.contains(&"kernel"), machine.qemu && machine.kvm, "in software none is fetched");
        }
    }
}
