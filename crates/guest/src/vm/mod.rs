//! The guest agent as the first process of a virtual machine: what the launcher does for a container is done here.
//!
//! The kernel starts it from an initramfs that holds nothing but it and some modules. It finds the host's port,
//! greets (see `atoll_rpc::channel`), and is told its ground in a first letter: then the disks become the root file
//! system ([`root`]). In a second one it is told who it is: the network comes up ([`network`]), and it goes on as in any
//! sandbox, serving the connections that come through the port ([`port`]). What it mounts of the host's comes through a
//! second port ([`volumes`]). Before the first letter it knows nothing, not even of its disks, and before the second nothing of
//! any sandbox, so a machine that waits for either can be copied; the host does ("waiting machines").

mod identity;
mod modules;
mod network;
pub mod port;
mod root;
mod volumes;
mod warm;

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};

use atoll_rpc::channel::{Answer, Beginning, Ground, Knows, Orders, PORT, PROVEN, letter};
use rustix::system::RebootCommand;

use crate::config::Config;
use crate::guest::Guest;
use crate::inherited::{ListenAt, Start};
use port::Port;

/// What the kernel passes to its first process.
pub const ARGUMENT: &str = "vm";

/// Names what was attempted.
trait During<T> {
    fn during(self, what: &str) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: &str) -> io::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            io::Error::new(error.kind(), format!("{what}: {error}"))
        })
    }
}

/// From the kernel's first jump to a sandbox that can be served.
///
/// # Errors
/// When the machine isn't as it should be. The host has been told then, if it could be.
pub fn boot() -> io::Result<Start> {
    root::first_mounts().during("mounting the first file systems")?;
    modules::load_all().during("loading modules")?;
    let port = Port::find(PORT).during("looking for the host's port")?;
    volumes::open_port().during("looking for the port of volumes")?;
    let (mut talk, orders) = port.greet(Knows::Nothing)?;
    let config = answer(&mut talk, stand(&orders))?;
    Ok(Start {
        config,
        listener: ListenAt::Port(port),
        ready: None,
        proc_folder: None,
        development: false,
        virtual_machine: true,
    })
}

/// Tells the host that it went well, or what did not.
fn answer<T>(talk: &mut File, result: io::Result<T>) -> io::Result<T> {
    let error = result.as_ref().err().map(ToString::to_string);
    talk.write_all(&letter(&serde_json::to_vec(&Answer { error })?))?;
    result
}

/// Takes its place, and with it all that does not depend on who it will be.
fn stand(orders: &Orders) -> io::Result<Config> {
    identity::take(orders)?;
    let missing = || io::Error::other("the first letter doesn't say what it stands on");
    let Ground { lowers, vcpus, memory_bytes, warm } = *orders.ground.as_ref().ok_or_else(missing)?;
    modules::take_devices()?;
    network::prepare();
    root::enter(lowers).during("making the root file system")?;
    if warm {
        warm::up();
    }
    Ok(Config { vcpus: vcpus.into(), memory_bytes, ..Config::default() })
}

/// From here on it is a sandbox.
fn begin(guest: &Guest, start: &Beginning) -> io::Result<()> {
    let config = config_of(start)?;
    set_hostname(start)?;
    if let Some(network) = &start.network {
        network::name(network).during("bringing the network up")?;
    }
    root::etc(start).during("writing the names of this sandbox")?;
    if start.volumes {
        volumes::begin().during("mounting volumes")?;
    }
    guest.become_another(config);
    // Here, where that costs no thread.
    crate::marks::leave_now(guest);
    Ok(())
}

/// Says on the console that all went well up to here, and ends the machine: a host asks whether machines run on it.
///
/// # Errors
/// When the machine isn't as it should be, or can't be ended.
pub fn prove() -> io::Result<Infallible> {
    root::first_mounts().during("mounting the first file systems")?;
    modules::load_all().during("loading modules")?;
    eprintln!("{PROVEN}");
    rustix::system::reboot(RebootCommand::Restart).during("ending the machine")?;
    Err(io::Error::other("the machine goes on after its end"))
}

/// This machine is a copy of one that ran, and its processes go on here: with the name, address, ids and settings of
/// another sandbox. What the kernel calls this boot can't be changed, so it is covered.
fn become_another(guest: &Guest, start: &Beginning) -> io::Result<()> {
    let config = config_of(start)?;
    if start.rehearsed {
        // Its network is as it was, and nobody has asked for the id of this boot, which there is from then on.
        set_hostname(start)?;
    } else {
        set_hostname(start)?;
        if let Some(network) = &start.network {
            network::rename(network).during("bringing the network up")?;
        }
        identity::cover_boot_id().during("covering the id of this boot")?;
    }
    root::etc(start).during("writing the names of this sandbox")?;
    match start.rehearsed {
        // As for one that has just booted: what it does first may be done in them.
        true if start.volumes => volumes::begin().during("mounting volumes")?,
        _ => volumes::become_another(start.volumes).during("mounting other volumes")?,
    }
    guest.become_another(config);
    if start.rehearsed {
        guest.forget();
    }
    crate::marks::leave_now(guest);
    crate::trust::begin(guest);
    Ok(())
}

fn set_hostname(start: &Beginning) -> io::Result<()> {
    rustix::system::sethostname(start.hostname.as_bytes()).during("setting the host name")
}

fn config_of(start: &Beginning) -> io::Result<Config> {
    Config::parse(start.guest.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
