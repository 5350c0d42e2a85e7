//! What agent, zygote and child say to each other: one JSON value per packet, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes of one packet: a plan with its longest host name and a full trace take a few kilobytes.
const MAX_PACKET: usize = 32 * 1024;
/// Descriptors of one packet; far below the kernel's own 253.
const MAX_FDS: usize = 64;

/// Agent to zygote. Descriptors: the child's end of the status socket, then the v2 cgroup if `into_cgroup`.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloneRequest {
    /// The first of the 65,536 ids.
    pub id_base: u32,
    pub into_cgroup: bool,
}

/// Agent to child: all that can be prepared before the child's user namespace is known.
///
/// Descriptors, in this order: one `tasks` file per v1 hierarchy (`tasks` of them), the listening socket, the guest's
/// configuration, the write end of the ready pipe, the small file system of [`super::shared`],
/// then one detached mount per name in `cgroup_views`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    pub tasks: usize,
    pub cgroup_views: Vec<String>,
    pub hostname: String,
    /// 32 hex digits, no two sandboxes the same.
    pub machine_id: String,
    /// The sandbox's address, for `/etc/hosts`.
    pub address: std::net::Ipv4Addr,
    pub nameserver: std::net::Ipv4Addr,
    /// Whether its layer has its files in /etc.
    pub etc_laid: bool,
    /// The processors to stay on; empty: all.
    pub cpus: Vec<usize>,
    pub shm_bytes: u64,
    /// For fault tests: fail on purpose at this stage.
    pub fail_at: Option<Stage>,
}

/// Agent to child, once the id maps are written. Descriptors: the mount of the sandbox's own volume, then those of
/// `lowers` layers, then one per path in `volumes`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go {
    pub lowers: usize,
    /// Where the volumes that are mounted into it go.
    pub volumes: Vec<String>,
}

/// Zygote or child to agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// With the pidfd.
    Cloned {
        pid: i32,
    },
    Failed(Failure),
    /// The child becomes the guest agent, and closes the socket.
    Done {
        steps: Vec<StageTime>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    /// What exactly, such as the path.
    pub what: String,
    pub errno: i32,
}

/// Times are nanoseconds of the monotonic clock, which agent and child share.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StageTime {
    pub stage: Stage,
    pub began_ns: u64,
    pub took_ns: u64,
}

/// The stages of a launch on the zygote's and the child's side, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Clone,
    IdMaps,
    Plan,
    JoinCgroups,
    Settle,
    AwaitMounts,
    Ping,
    Overlay,
    Pivot,
    Proc,
    Sys,
    Dev,
    Volumes,
    Etc,
    Detach,
    Descriptors,
    Seccomp,
    Capabilities,
    Begin,
}

impl Stage {
    pub const CHILD: [Self; 17] = [
        Self::Plan,
        Self::JoinCgroups,
        Self::Settle,
        Self::AwaitMounts,
        Self::Ping,
        Self::Overlay,
        Self::Pivot,
        Self::Proc,
        Self::Sys,
        Self::Dev,
        Self::Volumes,
        Self::Etc,
        Self::Detach,
        Self::Descriptors,
        Self::Seccomp,
        Self::Capabilities,
        Self::Begin,
    ];

    /// As traces, errors and failpoints (`launch::…`) name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::IdMaps => "id maps",
            Self::Plan => "receive plan",
            Self::JoinCgroups => "join cgroups",
            Self::Settle => "settle",
            Self::AwaitMounts => "await mounts",
            Self::Ping => "allow ping",
            Self::Overlay => "mount overlay",
            Self::Pivot => "pivot root",
            Self::Proc => "mount proc",
            Self::Sys => "mount sys",
            Self::Dev => "mount dev",
            Self::Volumes => "mount volumes",
            Self::Etc => "write etc",
            Self::Detach => "detach old root",
            Self::Descriptors => "place descriptors",
            Self::Seccomp => "install seccomp",
            Self::Capabilities => "drop capabilities",
            Self::Begin => "begin guest",
        }
    }
}

/// Sends one packet.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a launch message is too large"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet; `None` when the other end has closed.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0_u8; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags) {
            // A peer that closed with something unread is told of once; what it had sent is still there to be read.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a launch message was cut short"));
    }
    Ok(Some((serde_json::from_slice(&buffer[..received.bytes])?, fds)))
}

/// A pair of connected packet sockets, closed on exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Borrows each of a list.
pub fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
