//! The requests of a guest's kernel and the answers to them, as bytes: what linux/fuse.h lays down, as far as it is needed.
//!
//! A request is a [`Header`] and a body that is read field by field; nothing in it is believed. An answer is written into
//! a vector, its header last. No I/O here.

use std::ffi::CStr;

use rustix::fs::Stat;
use rustix::io::Errno;

/// Of the protocol that is spoken here. Older kernels than 5.19's are no guests.
pub const MAJOR: u32 = 7;
pub const MINOR: u32 = 36;

pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;
/// The root of every mount.
pub const ROOT: u64 = 1;
const MOST_NAME: usize = 255;

/// What is asked for.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const READDIR: u32 = 28;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
}

/// What kernel and server agree on at first.
pub mod flag {
    pub const ASYNC_READ: u32 = 1;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// In `SETATTR`: what is to be set.
pub mod set {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// In `WRITE`: it comes from the guest's page cache, and where it goes is said.
pub const WRITE_CACHE: u32 = 1;
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;

pub type Answer<T> = Result<T, Errno>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Header {
    /// The header of a request that is all of these bytes, and its body.
    #[must_use]
    pub fn parse(request: &[u8]) -> Option<(Self, Body<'_>)> {
        let mut body = Body(request);
        let length = body.u32().ok()? as usize;
        let header = Self {
            opcode: body.u32().ok()?,
            unique: body.u64().ok()?,
            node: body.u64().ok()?,
            uid: body.u32().ok()?,
            gid: body.u32().ok()?,
        };
        body.skip(8).ok()?;
        (length == request.len()).then_some((header, body))
    }
}

/// What is left of a request. Too short a one is invalid, as a kernel would say.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Answer<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u32(&mut self) -> Answer<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub fn u64(&mut self) -> Answer<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    pub fn skip(&mut self, bytes: usize) -> Answer<()> {
        self.0 = self.0.get(bytes..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    /// Exactly so many bytes, which are all that is left.
    pub fn data(&mut self, length: u32) -> Answer<&'a [u8]> {
        if self.0.len() == length as usize { Ok(std::mem::take(&mut self.0)) } else { Err(Errno::INVAL) }
    }

    /// A text that ends with a zero byte.
    pub fn text(&mut self) -> Answer<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// The name of something in a directory: one component, and no way up.
    pub fn name(&mut self) -> Answer<&'a CStr> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > MOST_NAME => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }
}

/// An answer being written.
pub struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Reply<'a> {
    /// Behind whatever is in the vector.
    pub fn begin(bytes: &'a mut Vec<u8>) -> Self {
        let start = bytes.len();
        bytes.extend([0; OUT_HEADER]);
        Self { bytes, start }
    }

    pub fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }

    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }

    pub fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// Bytes written so far, without the header.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start - OUT_HEADER
    }

    /// Room for so many more bytes, all zero; whoever fills them says how many.
    pub fn room(&mut self, most: usize) -> &mut [u8] {
        let from = self.bytes.len();
        self.zeros(most);
        &mut self.bytes[from..]
    }

    /// Takes the last bytes back.
    pub fn give_back(&mut self, bytes: usize) {
        let length = self.bytes.len().saturating_sub(bytes).max(self.start + OUT_HEADER);
        self.bytes.truncate(length);
    }

    /// Writes the header; what failed has no body.
    pub fn end(self, unique: u64, result: Answer<()>) {
        if result.is_err() {
            self.bytes.truncate(self.start + OUT_HEADER);
        }
        let error = result.err().map_or(0, |errno| -errno.raw_os_error());
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        let header = &mut self.bytes[self.start..self.start + OUT_HEADER];
        header[..4].copy_from_slice(&length.to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
    }

    pub fn attributes(&mut self, stat: &Stat) -> &mut Self {
        let time = |seconds: i64| seconds.cast_unsigned();
        self.u64(stat.st_ino).u64(stat.st_size.cast_unsigned()).u64(stat.st_blocks.cast_unsigned());
        self.u64(time(stat.st_atime)).u64(time(stat.st_mtime)).u64(time(stat.st_ctime));
        self.u32(stat.st_atime_nsec as u32).u32(stat.st_mtime_nsec as u32).u32(stat.st_ctime_nsec as u32);
        self.u32(stat.st_mode).u32(stat.st_nlink as u32).u32(stat.st_uid).u32(stat.st_gid);
        self.u32(0).u32(4096).u32(0)
    }

    /// For how many seconds they are good, then they themselves.
    pub fn lasting_attributes(&mut self, seconds: u64, stat: &Stat) -> &mut Self {
        self.u64(seconds).u32(0).u32(0).attributes(stat)
    }

    /// A name's node, and its attributes.
    pub fn entry(&mut self, seconds: u64, node: u64, stat: &Stat) -> &mut Self {
        self.u64(node).u64(0).u64(seconds).u64(seconds).u32(0).u32(0).attributes(stat)
    }

    /// An open file that needs no number.
    pub fn opened(&mut self) -> &mut Self {
        self.zeros(16)
    }

    /// An entry of a directory. False, and nothing written, when it doesn't fit.
    pub fn directory_entry(&mut self, most: usize, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool {
        let padded = (24 + name.len()).next_multiple_of(8);
        if self.len() + padded > most {
            return false;
        }
        self.u64(ino).u64(next).u32(name.len() as u32).u32(u32::from(kind)).bytes(name);
        self.zeros(padded - 24 - name.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((_, mut body)) = Header::parse(&bytes) {
                prop_assert_eq!(body.0.len() + IN_HEADER, bytes.len());
                while let Ok(name) = body.name() {
                    let name = name.to_bytes();
                    prop_assert!(!name.contains(&b'/') && name != b".." && name != b"." && !name.is_empty());
                }
            }
            prop_assert!(Body(&bytes).data(bytes.len() as u32 + 1).is_err());
        }
    }

    #[test]
    fn answers_are_as_long_as_the_kernel_wants_them() {
        // SAFETY: all-zero is a valid value of this plain structure.
        let stat: Stat = unsafe { std::mem::zeroed() };
        let length = |write: &dyn Fn(&mut Reply<'_>)| {
            let mut bytes = b"before".to_vec();
            let mut reply = Reply::begin(&mut bytes);
            write(&mut reply);
            let length = reply.len();
            reply.end(9, Ok(()));
            assert_eq!(bytes[6..10], u32::try_from(length + OUT_HEADER).unwrap().to_ne_bytes());
            assert_eq!(bytes[14..22], 9_u64.to_ne_bytes());
            length
        };
        assert_eq!(
            length(&|reply| {
                reply.attributes(&stat);
            }),
            88
        );
        assert_eq!(
            length(&|reply| {
                reply.lasting_attributes(1, &stat);
            }),
            104
        );
        assert_eq!(
            length(&|reply| {
                reply.entry(1, 2, &stat);
            }),
            128
        );
        assert_eq!(
            length(&|reply| {
                reply.opened();
            }),
            16
        );
        assert_eq!(length(&|reply| assert!(reply.directory_entry(40, 1, 2, 4, b"name"))), 32);
        assert_eq!(length(&|reply| assert!(!reply.directory_entry(31, 1, 2, 4, b"name"))), 0);
        let mut bytes = Vec::new();
        let mut reply = Reply::begin(&mut bytes);
        reply.u64(1);
        reply.end(1, Err(Errno::NOENT));
        assert_eq!(bytes.len(), OUT_HEADER);
        assert_eq!(bytes[4..8], (-2_i32).to_ne_bytes());
    }
}
