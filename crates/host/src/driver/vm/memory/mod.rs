//! A machine's memory. At rest it is a sparse file; while the machine runs, one of two things.
//!
//! A machine that was booted has a memfd of QEMU's own. One that goes on with what a machine was maps that file
//! privately ([`private`]): it begins at once, however large it is, and all that go on with the same file share what
//! they have not written to. QEMU knows it for a memfd of its own and can only read it ([`atoll_launch::lend`]).
//! Both are reached through /proc, by an agent that knows nothing of the machine but its process.

mod private;
mod sparse;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use atoll_launch::lend;
use rustix::fs::{CWD, Dir, Mode, OFlags, fcntl_get_seals, openat, readlinkat};

use private::{Private, Taken};
pub(super) use sparse::{PAGE, copy, extents};

/// What the name of a memfd begins with in /proc.
const MEMFD: &str = "/memfd:";
/// What QEMU calls that of a `memory-backend-memfd`.
pub(super) const NAME: &str = "memory-backend-memfd";

/// No machine has more. What a process that is no QEMU any more shows must not cost an agent what it likes.
const MOST_BYTES: u64 = 1 << 40;

/// Of a directory of processes, which may be mounted nowhere any more.
pub(super) fn proc() -> io::Result<OwnedFd> {
    Ok(openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Of a machine that runs, or stands still.
pub(super) enum Memory {
    Own(File),
    Private(Private),
}

/// What is known of a copy that was made before.
pub(super) enum Draft {
    Nothing,
    /// Of a private mapping, while the machine ran.
    Private(Taken),
}

impl Memory {
    /// The memory of the machine that the process `pid` runs; none if it has none. What a hostile process shows for it
    /// is at worst a file that it can read.
    pub fn of_process(proc: BorrowedFd<'_>, pid: i32) -> io::Result<Option<Self>> {
        let folder = openat(proc, pid.to_string(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = openat(&folder, "fd", flags, Mode::empty())?;
        let number = lend::NUMBER.to_string();
        let mut own = None;
        for entry in Dir::read_from(&open)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == number.as_bytes() {
                return Private::of(&folder, &open, &number).map(|memory| Some(Self::Private(memory)));
            }
            let wanted = [MEMFD, NAME].concat();
            if !readlinkat(&open, name, Vec::new()).is_ok_and(|link| link.as_bytes().starts_with(wanted.as_bytes())) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let Ok(file) = openat(&open, name, flags, Mode::empty()) else { continue };
            let file = File::from(file);
            let meta = file.metadata()?;
            // Only a memfd, or what lies in one, can say anything of seals.
            if meta.is_file() && (1..=MOST_BYTES).contains(&meta.len()) && fcntl_get_seals(&file).is_ok() {
                own = Some(Self::Own(file));
            }
        }
        Ok(own)
    }

    /// Makes `to`, which is empty, what this is; the machine may run meanwhile.
    pub fn begin(&self, to: &File) -> io::Result<Draft> {
        match self {
            Self::Own(file) => copy(file, to, true).map(|_| Draft::Nothing),
            Self::Private(memory) => memory.begin(to).map(Draft::Private),
        }
    }

    /// Makes `to`, which it was once, what it is now that the machine stands still. How many bytes were written.
    pub fn finish(&self, to: &File, draft: Draft) -> io::Result<u64> {
        match (self, draft) {
            (Self::Private(memory), Draft::Private(taken)) => memory.finish(to, &taken),
            (Self::Private(memory), Draft::Nothing) => memory.finish(to, &Taken::all(memory)),
            (Self::Own(file), _) => copy(file, to, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    #[test]
    fn a_process_has_the_memory_that_is_called_so() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let proc = proc().unwrap();
        let find = || Memory::of_process(proc.as_fd(), pid).unwrap();
        assert!(find().is_none());
        let memory = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(777).unwrap();
        assert!(matches!(find(), Some(Memory::Own(file)) if file.metadata().unwrap().len() == 777));
    }
}
