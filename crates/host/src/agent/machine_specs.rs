//! What this machine has.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use atoll_model::api::hosts::HostSpecs;

use super::endpoint::Endpoint;

/// Processor architecture, cores, memory and disk, and the drivers on offer.
#[must_use]
pub fn specs(data_dir: &Path, version: &str, drivers: &[String]) -> HostSpecs {
    HostSpecs {
        arch: std::env::consts::ARCH.to_owned(),
        cpu_cores: std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
        memory_mb: memory_bytes() >> 20,
        disk_gb: disk_bytes(data_dir) >> 30,
        drivers: drivers.to_vec(),
        agent_version: version.to_owned(),
    }
}

/// Memory of the machine; 1 GiB if the kernel does not tell.
#[must_use]
pub fn memory_bytes() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory(&text));
    total.unwrap_or(1 << 30)
}

fn parse_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Size of the file system that the data directory lies on.
#[must_use]
pub fn disk_bytes(data_dir: &Path) -> u64 {
    rustix::fs::statvfs(data_dir).map_or(0, |it| it.f_blocks.saturating_mul(it.f_frsize))
}

/// Where control reaches this agent if nobody says otherwise: the address that this machine uses towards control (or
/// the one that is listened on, when that is a certain one), and the port that is listened on.
#[must_use]
pub fn own_address(endpoint: &Endpoint, bound: SocketAddr) -> String {
    let ip = if bound.ip().is_unspecified() { towards(endpoint).unwrap_or_else(|| bound.ip()) } else { bound.ip() };
    SocketAddr::new(ip, bound.port()).to_string()
}

/// Asks the kernel which address it would send from; sends nothing.
fn towards(endpoint: &Endpoint) -> Option<IpAddr> {
    ["0.0.0.0:0", "[::]:0"].into_iter().find_map(|any| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((endpoint.host(), endpoint.port())).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        assert_eq!(parse_memory("MemTotal:       24661220 kB\nMemFree: 1 kB\n"), Some(24_661_220 << 10));
        assert_eq!(parse_memory("nothing"), None);
    }

    #[test]
    fn towards_a_control_on_loopback_the_own_address_is_loopback() {
        let endpoint = Endpoint::parse("http://127.0.0.1:7700").unwrap();
        assert_eq!(own_address(&endpoint, "0.0.0.0:7701".parse().unwrap()), "127.0.0.1:7701");
        assert_eq!(own_address(&endpoint, "10.1.2.3:7701".parse().unwrap()), "10.1.2.3:7701");
    }
}
