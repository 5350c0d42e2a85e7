//! `eth0`: its address, the way out. As the host does it for a container: no ARP, no IPv6, everything through the
//! gateway. What may pass is decided outside.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use atoll_rpc::channel::Network;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::During;

const NAME: &[u8; 5] = b"eth0\0";

/// Low ports and ping for everybody inside, as in a container. What this kernel doesn't have is no loss.
const SYSCTLS: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 65535"),
    ("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"),
];

/// What holds whatever its address will be. (Writing the last of them again and again until the kernel has time for it is
/// what the kernel has a process do: nothing for one that goes before all others, the kernel's own among them.)
pub fn prepare() {
    for (path, value) in SYSCTLS {
        let _absent = fs::write(path, value);
    }
    // Up already, without an address: that takes the kernel longer than to give it one.
    let _no_network = socket().and_then(|socket| up(&socket));
}

/// Gives it its first address.
pub fn name(network: &Network) -> io::Result<()> {
    let socket = socket()?;
    let mut request = request();
    let mut hardware = [0_u8; 14];
    hardware[..6].copy_from_slice(&network.mac);
    request.ifr_ifru.ifru_hwaddr =
        libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: hardware.map(|byte| byte as libc::c_char) };
    call(&socket, libc::SIOCSIFHWADDR as _, &request).during("its hardware address")?;
    request.ifr_ifru.ifru_addr = address(network.address);
    call(&socket, libc::SIOCSIFADDR as _, &request).during("its address")?;
    request.ifr_ifru.ifru_netmask = address(Ipv4Addr::BROADCAST);
    call(&socket, libc::SIOCSIFNETMASK as _, &request).during("its mask")?;
    request.ifr_ifru.ifru_mtu = i32::try_from(network.mtu).map_err(io::Error::other)?;
    call(&socket, libc::SIOCSIFMTU as _, &request).during("its MTU")?;
    up(&socket)?;
    route(&socket, network.gateway, None).during("the way to the gateway")?;
    route(&socket, Ipv4Addr::UNSPECIFIED, Some(network.gateway)).during("the way out")
}

/// Another address: a copy has that of its original.
pub fn rename(network: &Network) -> io::Result<()> {
    // Down, so that nothing is left of that.
    call(&socket()?, libc::SIOCSIFFLAGS as _, &request()).during("bringing it down")?;
    name(network)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn up(socket: &OwnedFd) -> io::Result<()> {
    let mut request = request();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
    call(socket, libc::SIOCSIFFLAGS as _, &request).during("bringing it up")
}

fn request() -> libc::ifreq {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME) {
        *to = *from as libc::c_char;
    }
    request
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    let mut bytes = [0_u8; 14];
    bytes[2..6].copy_from_slice(&address.octets());
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: bytes.map(|byte| byte as libc::c_char) }
}

/// To one address on the link, or to everything beyond a gateway.
fn route(socket: &OwnedFd, destination: Ipv4Addr, gateway: Option<Ipv4Addr>) -> io::Result<()> {
    let mut name = *NAME;
    // SAFETY: all-zero is a valid value of this plain structure of numbers and pointers.
    let mut entry: libc::rtentry = unsafe { std::mem::zeroed() };
    entry.rt_dst = address(destination);
    entry.rt_genmask = address(if gateway.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::BROADCAST });
    entry.rt_gateway = address(gateway.unwrap_or(Ipv4Addr::UNSPECIFIED));
    entry.rt_flags = if gateway.is_some() { libc::RTF_UP | libc::RTF_GATEWAY } else { libc::RTF_UP | libc::RTF_HOST };
    entry.rt_dev = name.as_mut_ptr().cast();
    call(socket, libc::SIOCADDRT as _, &entry)
}

fn call<T>(socket: &OwnedFd, request: libc::Ioctl, argument: &T) -> io::Result<()> {
    // SAFETY: each request above comes with the structure that the kernel expects for it, whole and alive; the name
    // that one of them points to outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_ref(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
