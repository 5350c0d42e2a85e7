//! Files that a sandbox has removed and may have open: under another name beside the volume, until its guest has forgotten
//! them.
//!
//! Which ones there are is read from the directory once, and remembered: most of what a guest forgets was never removed.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_model::SandboxId;
use rustix::fs::{AtFlags, Dir, Stat};
use rustix::io::Errno;

use super::abi::Answer;
use crate::storage::clear_unlinked;

/// A guest that has removed more, and forgotten none of it, finds them gone as it would on a full disk.
const MOST: usize = 1 << 16;

#[derive(Debug)]
pub struct Asides {
    dir: File,
    sandbox: SandboxId,
    nodes: Mutex<HashSet<u64>>,
}

impl Asides {
    /// Those of one sandbox, in the directory that the volume has for such.
    pub fn open(dir: File, sandbox: &SandboxId) -> io::Result<Self> {
        let asides = Self { dir, sandbox: sandbox.clone(), nodes: Mutex::default() };
        *asides.nodes() = asides.read()?;
        Ok(asides)
    }

    fn nodes(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> io::Result<HashSet<u64>> {
        let mut nodes = HashSet::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok().and_then(|name| name.strip_prefix(self.sandbox.as_str()));
            nodes.extend(name.and_then(|rest| u64::from_str_radix(rest.strip_prefix('.')?, 16).ok()));
        }
        Ok(nodes)
    }

    fn name(&self, node: u64) -> Answer<CString> {
        CString::new(format!("{}.{node:016x}", self.sandbox)).map_err(|_| Errno::INVAL)
    }

    /// Gives a file, which is that node and open as a place, a name here. Whether it had none before.
    pub fn keep(&self, node: u64, file: &File) -> Answer<bool> {
        if self.nodes().len() >= MOST {
            return Err(Errno::NOSPC);
        }
        let linked = rustix::fs::linkat(file, c"", &self.dir, self.name(node)?, AtFlags::EMPTY_PATH);
        match linked {
            Ok(()) | Err(Errno::EXIST) => {
                self.nodes().insert(node);
                Ok(linked.is_ok())
            }
            Err(error) => Err(error),
        }
    }

    /// It is needed no more. Does nothing for what has no name here.
    pub fn forget(&self, node: u64) {
        let known = self.nodes().remove(&node);
        if known && let Ok(name) = self.name(node) {
            let _gone_already = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        }
    }

    /// None is needed any more.
    pub fn clear(&self) -> io::Result<()> {
        let cleared = clear_unlinked(&self.dir, &self.sandbox);
        *self.nodes() = self.read()?;
        cleared
    }

    /// What is told of a node: its name here is no name of it.
    pub fn told(&self, node: u64, stat: &Stat) -> Stat {
        let mut told = *stat;
        if self.nodes().contains(&node) {
            told.st_nlink = told.st_nlink.saturating_sub(1);
        }
        told
    }
}
