//! The kernel's questions before anybody reads of a file (fanotify's pre-content events, Linux 6.14 and later).
//!
//! Who reads waits until the question is answered: go on, or an I/O error. Only reads of files that were opened after the
//! mark are asked about, so a descriptor of before reads and writes freely. What is read by the page cache alone is never
//! asked about: the metadata of a mounted erofs. When the last descriptor of a group is closed, all may go on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Of fanotify(7); libc has no names for these yet.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;
const INFO_RANGE: u8 = 6;
/// A refusal is an I/O error to the reader (`FAN_DENY_ERRNO`).
const DENY: u32 = libc::FAN_DENY | (libc::EIO as u32) << 24;

const HEAD: usize = 24;
const INFO_HEAD: usize = 4;

/// Whose questions come together.
#[derive(Debug)]
pub(super) struct Group(OwnedFd);

/// Somebody waits to read these bytes of a file.
#[derive(Debug)]
pub(super) struct Question {
    /// The file, by a descriptor that the answer names.
    pub file: OwnedFd,
    pub offset: u64,
    pub count: u64,
}

impl From<OwnedFd> for Group {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Group {
    /// # Errors
    /// When the kernel has none.
    pub fn new() -> io::Result<Self> {
        // Of a queue with a bound, what exceeds it may go on unasked. This one's is the number of those who wait.
        let flags = libc::FAN_CLASS_PRE_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_QUEUE;
        let event_flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as u32;
        // SAFETY: it takes numbers.
        let fd = unsafe { libc::fanotify_init(flags, event_flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just handed out this descriptor, and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// From now on we are asked about this file.
    pub fn mark(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.change(libc::FAN_MARK_ADD, file)
    }

    /// Success when it was not marked.
    pub fn unmark(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        match self.change(libc::FAN_MARK_REMOVE, file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn change(&self, flags: u32, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: without a path it is the descriptor itself that is meant; no memory is read.
        let done = unsafe {
            libc::fanotify_mark(self.0.as_raw_fd(), flags, FAN_PRE_ACCESS, file.as_raw_fd(), std::ptr::null())
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Some questions; none when nobody waits.
    pub fn read(&self) -> io::Result<Vec<Question>> {
        // A few at a time, each with a descriptor.
        let mut buffer = [0_u8; 2048];
        let read = match rustix::io::read(&self.0, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Vec::new()),
            read => read?,
        };
        Ok(questions(&buffer[..read]))
    }

    /// Lets a reader go on, or refuses. Success when it waits no more.
    pub fn answer(&self, question: BorrowedFd<'_>, go_on: bool) -> io::Result<()> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&question.as_raw_fd().to_ne_bytes());
        bytes[4..].copy_from_slice(&(if go_on { libc::FAN_ALLOW } else { DENY }).to_ne_bytes());
        match rustix::io::write(&self.0, &bytes) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            written => Ok(written.map(drop)?),
        }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// As the kernel writes them: a head (its length and that of the whole, a descriptor), then records.
fn questions(mut bytes: &[u8]) -> Vec<Question> {
    let mut all = Vec::new();
    while let Some(length) = number(bytes, 0).map(u32::from_ne_bytes) {
        let length = length as usize;
        let (Some(event), Some(fd)) = (bytes.get(..length), number(bytes, 16).map(i32::from_ne_bytes)) else { break };
        if length < HEAD {
            break;
        }
        bytes = &bytes[length..];
        if fd < 0 {
            continue;
        }
        // SAFETY: the kernel has opened it for us with this event, which is read once.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // Where it doesn't say, all of it may be wanted.
        let (mut offset, mut count) = (0, u64::MAX);
        let mut at = usize::from(u16::from_ne_bytes(number(event, 6).unwrap_or_default()));
        while let Some([kind, _, low, high]) = number::<4>(event, at) {
            let record = usize::from(u16::from_ne_bytes([low, high]));
            if kind == INFO_RANGE {
                let part = |field| number(event, at + INFO_HEAD + field).map(u64::from_ne_bytes);
                if let (Some(begin), Some(bytes)) = (part(4), part(12)) {
                    (offset, count) = (begin, bytes.max(1));
                }
            }
            if record < INFO_HEAD {
                break;
            }
            at += record;
        }
        all.push(Question { file, offset, count });
    }
    all
}
