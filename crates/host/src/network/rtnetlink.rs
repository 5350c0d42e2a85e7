//! A connection to the kernel's rtnetlink: batches of changes, and questions.
//!
//! Synchronous and without a runtime: a change takes tens of microseconds. A connection belongs to the network
//! namespace of the thread that opened it, wherever it is used later.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers at once, but for what waits for other holders of its lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel never puts more into one datagram.
const BUFFER_BYTES: usize = 64 * 1024;

/// One change: the message, what it is for (for errors), and flags beyond request and acknowledge.
pub(super) struct Change {
    pub what: &'static str,
    pub message: RouteNetlinkMessage,
    pub flags: u16,
}

/// Why a batch failed: which change, and how.
#[derive(Debug)]
pub(super) struct Refused {
    pub index: usize,
    /// The kernel's error number; 0 when the conversation itself failed.
    pub code: i32,
    pub error: io::Error,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// False after a failure in the conversation itself: answers may still be on their way.
    pub usable: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a connection to the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        // SAFETY: the socket outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES), usable: true })
    }

    /// Makes all changes, in order, in one system call. The kernel goes on after one that it refuses; the first
    /// refusal is the answer.
    pub fn change(&mut self, changes: Vec<Change>) -> Result<(), Refused> {
        let names: Vec<_> = changes.iter().map(|change| change.what).collect();
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(1024);
        for change in changes {
            self.append(&mut bytes, change.message, change.flags | NLM_F_ACK);
        }
        let mut refused: Option<Refused> = None;
        let mut acknowledge = || -> io::Result<()> {
            self.socket.send(&bytes, 0)?;
            let mut open = names.len();
            while open > 0 {
                self.receive(|message| {
                    let NetlinkPayload::Error(answer) = message.payload else { return Ok(true) };
                    let index = message.header.sequence_number.wrapping_sub(first) as usize;
                    let Some(what) = names.get(index) else { return Ok(true) };
                    open -= 1;
                    if let (Some(code), true) = (answer.code, refused.as_ref().is_none_or(|r| index < r.index)) {
                        let error = io::Error::from_raw_os_error(code.get().abs());
                        refused = Some(Refused { index, code: code.get().abs(), error: named(what, &error) });
                    }
                    Ok(open > 0)
                })?;
            }
            Ok(())
        };
        if let Err(error) = acknowledge() {
            self.usable = false;
            return Err(Refused { index: 0, code: 0, error: named("talking to the kernel", &error) });
        }
        refused.map_or(Ok(()), Err)
    }

    /// Asks for one thing, or with `dump` for all; `each` sees every answer.
    pub fn ask(
        &mut self,
        what: &'static str,
        question: RouteNetlinkMessage,
        dump: bool,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, question, if dump { NLM_F_DUMP } else { 0 });
        let sequence = self.sequence;
        let mut refused = None;
        let mut converse = || -> io::Result<()> {
            self.socket.send(&bytes, 0)?;
            let mut open = true;
            while open {
                self.receive(|message| {
                    if message.header.sequence_number != sequence {
                        return Ok(true);
                    }
                    match message.payload {
                        NetlinkPayload::InnerMessage(answer) => {
                            each(answer);
                            open = dump;
                        }
                        NetlinkPayload::Error(answer) => {
                            refused = answer.code.map(|code| io::Error::from_raw_os_error(code.get().abs()));
                            open = false;
                        }
                        NetlinkPayload::Done(_) => open = false,
                        _ => {}
                    }
                    Ok(open)
                })?;
            }
            Ok(())
        };
        if let Err(error) = converse() {
            self.usable = false;
            return Err(named(what, &error));
        }
        refused.map_or(Ok(()), |error| Err(named(what, &error)))
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        // Messages in one datagram begin at multiples of four.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Reads one datagram and hands over its messages as long as `each` wants more.
    fn receive(
        &mut self,
        mut each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER_BYTES);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        let mut rest = &self.buffer[..];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}")))?;
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            if !each(message)? || length == 0 {
                break;
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
