//! What is in a directory. Places in it are btrfs's own, which stay what they are: so each request opens it anew.

use std::mem::MaybeUninit;

use atoll_rpc::volumes::MOST_DATA;
use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::abi::{Answer, Reply};
use super::{Asked, Server};

const BUFFER: usize = 32 << 10;
/// What comes before an entry when its attributes are wanted too.
const ENTRY: usize = 128;

impl Server {
    /// The entries behind a place, as many as fit; with their attributes if those are wanted.
    pub(super) fn readdir(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>, with_attributes: bool) -> Answer<()> {
        asked.body.skip(8)?;
        let (offset, most) = (asked.body.u64()?, (asked.body.u32()? as usize).min(MOST_DATA));
        i64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let dir = self.tree.open(asked.header.node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::seek(&dir, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let special = matches!(name.to_bytes(), b"." | b"..");
            if with_attributes {
                if reply.len() + ENTRY > most {
                    break;
                }
                // What is gone meanwhile, or lies elsewhere, is a name without more.
                match if special { None } else { self.tree.find(&dir, name).ok() } {
                    Some((node, stat)) => self.tell(reply, node, &stat),
                    None => reply.zeros(ENTRY),
                };
            }
            let (ino, next) = (entry.ino(), entry.next_entry_cookie());
            if !reply.directory_entry(most, ino, next, kind(entry.file_type()), name.to_bytes()) {
                if with_attributes {
                    reply.give_back(ENTRY);
                }
                break;
            }
        }
        Ok(())
    }
}

/// As `readdir` numbers them.
fn kind(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown => 0,
        known => (known.as_raw_mode() >> 12) as u8,
    }
}
