//! The machine's first file system: an archive in the kernel's own format (cpio, "newc"), written here.

use std::io::{self, Write};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// Writes an archive, entry by entry.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn directory(&mut self, path: &str) {
        self.entry(path, S_IFDIR | 0o755, (0, 0), &[]);
    }

    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, S_IFREG | mode, (0, 0), contents);
    }

    pub fn character_device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.entry(path, S_IFCHR | mode, number, &[]);
    }

    /// The whole, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // magic, inode, mode, uid, gid, links, time, size, device of the file, device that it is, name's length, check
        let numbers = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        let head = numbers.iter().fold("070701".to_owned(), |text, number| text + &format!("{number:08X}"));
        // Writing to memory can't fail.
        let _written: io::Result<()> = self.bytes.write_all(head.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    /// Everything begins at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_archive_is_what_others_take_for_one() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.file("init", 0o755, b"#!");
        archive.character_device("dev/console", 0o600, (5, 1));
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4) && bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("TRAILER!!!") && text.contains("dev/console\0"));
        // Where the machine has a reader of such archives, it has the last word.
        let reader = Command::new("cpio").arg("-itv").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut reader) = reader else { return };
        reader.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listing = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
        assert!(listing.contains("5,   1") && listing.contains("-rwxr-xr-x"), "{listing}");
    }
}
