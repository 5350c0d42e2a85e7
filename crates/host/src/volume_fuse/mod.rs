//! A volume as a virtual machine's kernel asks for it: the far end of a FUSE mount inside, for one volume and one sandbox.
//!
//! It remembers nothing that isn't on the disk. A node's number is the file's inode and generation on the pool's btrfs, and each request opens what
//! it speaks of anew; so the agent may die and be another one, and a machine may stand still for days, or be a copy of
//! another, and the next request is answered as ever. What is gone is stale. Requests are a stranger's bytes: `abi` reads
//! them, `tree` finds nodes within the volume's subvolume and nowhere else, by number or by one name in an open directory,
//! following nothing. `names`, `data`, `listing` and `attributes` do what their names say, `owner` lets a thread make files
//! as somebody else, `asides` keeps what was removed. Who may do what is decided by the guest's kernel, as a container's is by its own: both are root of
//! the volume. Owners are 0-based on disk, as for containers.
//!
//! A file that is removed while it may be open inside is moved beside the volume, under the sandbox's name, until the
//! guest's kernel has forgotten it. Requests that come again after a talk that broke are marked; what they did before is
//! recognised where doing it twice would be an error. All of it blocks, and is for threads of its own ([`begin_thread`]).

mod abi;
mod asides;
mod attributes;
mod data;
mod listing;
mod names;
mod owner;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::File;
use std::io;
use std::path::Path;

use atoll_model::SandboxId;
use atoll_rpc::volumes::{AGAIN, MOST_DATA};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::storage::{UNLINKED, make_hosts_own};
use abi::{Answer, Body, Header, IN_HEADER, MAJOR, MINOR, Reply, flag, op};
use asides::Asides;
use tree::Tree;

pub use owner::begin_thread;

/// For how long a guest may believe what it was told, in seconds: others write to the same files.
const GOOD_FOR: u64 = 1;
/// What a guest's kernel may have in flight by itself, such as what it reads ahead.
const BACKGROUND: u16 = 16;
const MOST_READ_AHEAD: u32 = MOST_DATA as u32;

/// A request that makes no sense at all: who sends such has lost the thread.
#[derive(Debug, thiserror::Error)]
#[error("no request of a guest's kernel")]
pub struct Nonsense;

#[derive(Debug)]
pub struct Server {
    tree: Tree,
    asides: Asides,
    read_only: bool,
    /// What the volume may hold.
    bytes: u64,
}

/// A request, on its way through.
struct Asked<'a> {
    header: Header,
    body: Body<'a>,
    /// It may have been carried out before.
    again: bool,
}

impl Server {
    /// For a volume whose files are in `source`, as one sandbox has it. Blocks.
    ///
    /// # Errors
    /// When it can't be opened, or is in no pool.
    pub fn open(source: &Path, sandbox: &SandboxId, read_only: bool, bytes: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).map(File::from);
        let beside = source.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let top = open(beside)?;
        // All of them now: what is made later would not be known as what no sandbox sees.
        make_hosts_own(&top)?;
        let tree = Tree::new(open(source)?, &top)?;
        let asides = Asides::open(open(&beside.join(UNLINKED))?, sandbox)?;
        Ok(Self { tree, asides, read_only, bytes })
    }

    /// Whether it is to be carried out by [`Self::forget`], before anything that comes after it is looked at. It is
    /// answered like any other.
    #[must_use]
    pub fn is_forgetting(request: &[u8]) -> bool {
        Header::parse(request).is_some_and(|(header, _)| matches!(header.opcode, op::FORGET | op::BATCH_FORGET))
    }

    /// The guest's kernel knows a node no more: what was removed meanwhile can go.
    pub fn forget(&self, request: &[u8]) {
        let Some((header, mut body)) = Header::parse(request) else { return };
        if header.opcode == op::FORGET {
            return self.asides.forget(header.node);
        }
        let Ok(_count) = body.skip(8) else { return };
        while let (Ok(node), Ok(_lookups)) = (body.u64(), body.u64()) {
            self.asides.forget(node);
        }
    }

    /// Carries out a request and writes the answer behind what is in `answer`.
    ///
    /// # Errors
    /// When it is no request.
    pub fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Result<(), Nonsense> {
        let (header, body) = Header::parse(request).ok_or(Nonsense)?;
        let asked = Asked { header, body, again: header.unique & AGAIN != 0 };
        let mut reply = Reply::begin(answer);
        let done = self.carry_out(asked, &mut reply);
        reply.end(header.unique & !AGAIN, done);
        Ok(())
    }

    fn carry_out(&self, asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        if changes(asked.header.opcode) && self.read_only {
            return Err(Errno::ROFS);
        }
        match asked.header.opcode {
            op::INIT => self.init(asked, reply),
            op::DESTROY | op::FORGET | op::BATCH_FORGET => Ok(()),
            op::LOOKUP => self.lookup(asked, reply),
            op::GETATTR => self.getattr(asked, reply),
            op::SETATTR => self.setattr(asked, reply),
            op::READLINK => self.readlink(asked, reply),
            op::SYMLINK => self.symlink(asked, reply),
            op::MKNOD => self.mknod(asked, reply),
            op::MKDIR => self.mkdir(asked, reply),
            op::UNLINK => self.unlink(asked),
            op::RMDIR => self.rmdir(asked),
            op::RENAME | op::RENAME2 => self.rename(asked),
            op::LINK => self.link(asked, reply),
            op::CREATE => self.create(asked, reply),
            op::OPEN => self.open_file(asked, reply),
            op::READ => self.read(asked, reply),
            op::WRITE => self.write(asked, reply),
            op::FSYNC | op::FSYNCDIR => self.fsync(asked),
            op::FALLOCATE => self.fallocate(asked),
            op::LSEEK => self.lseek(asked, reply),
            op::STATFS => self.statfs(reply),
            op::READDIR => self.readdir(asked, reply, false),
            op::READDIRPLUS => self.readdir(asked, reply, true),
            op::SETXATTR => self.setxattr(asked),
            op::GETXATTR => self.getxattr(asked, reply),
            op::LISTXATTR => self.listxattr(asked, reply),
            op::REMOVEXATTR => self.removexattr(asked),
            _ => Err(Errno::NOSYS),
        }
    }

    /// A mount begins: whatever was open in an earlier life of this sandbox is so no more.
    fn init(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let (major, _minor) = (asked.body.u32()?, asked.body.u32()?);
        if major < MAJOR {
            return Err(Errno::PROTO);
        }
        if let Err(error) = self.asides.clear() {
            tracing::warn!(%error, "what an earlier life of a sandbox has removed from a volume stays until it ends");
        }
        reply.u32(MAJOR).u32(MINOR);
        let (read_ahead, offered) =
            if major == MAJOR { (asked.body.u32()?, asked.body.u32()?) } else { (MOST_READ_AHEAD, 0) };
        let wanted = flag::ASYNC_READ
            | flag::BIG_WRITES
            | flag::AUTO_INVAL_DATA
            | flag::DO_READDIRPLUS
            | flag::READDIRPLUS_AUTO
            | flag::PARALLEL_DIROPS
            | flag::HANDLE_KILLPRIV_V2;
        reply.u32(read_ahead.min(MOST_READ_AHEAD)).u32(offered & wanted);
        reply.u16(BACKGROUND).u16(BACKGROUND / 4 * 3).u32(MOST_DATA as u32).u32(1);
        reply.zeros(64 - reply.len());
        Ok(())
    }
}

/// Whether it leaves a trace.
const fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        op::SETATTR
            | op::SYMLINK
            | op::MKNOD
            | op::MKDIR
            | op::UNLINK
            | op::RMDIR
            | op::RENAME
            | op::RENAME2
            | op::LINK
            | op::CREATE
            | op::WRITE
            | op::FALLOCATE
            | op::SETXATTR
            | op::REMOVEXATTR
    )
}

/// The shortest request there is.
pub const SHORTEST: usize = IN_HEADER;
