//! Tar archives (ustar, pax, GNU long names) as layers of a container image.
//!
//! Names are normalised and walked inside the tree, so `..` and links lead nowhere else. Whiteouts (`.wh.NAME`,
//! `.wh..wh..opq`) remove what earlier archives brought, never what this one did. Devices are left out, and so are all
//! attributes but user ones and file capabilities.

use std::io::{ErrorKind, Read};

use crate::spool::Spool;
use crate::tree::{Content, Kind, Meta, Source, Tree, plain_directory, split};
use crate::walk::is_kept;
use crate::{ImageError, Inode, failed};

const BLOCK: usize = 512;
/// A pax header: names, times and attributes of one file.
const MAX_PAX: u64 = 1 << 20;
const MAX_PATH: usize = 4096;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// What extended headers say of the next entry.
#[derive(Debug, Default, Clone)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.0[at..at + length]
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = self.bytes(at, length);
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Octal, or big-endian binary when the first bit is set.
    fn number(&self, at: usize, length: usize, what: &str) -> Result<u64, ImageError> {
        let field = self.bytes(at, length);
        let wrong = || ImageError::archive(format!("the {what} of an entry is no number"));
        if field[0] & 0x80 != 0 {
            let (high, low) = field.split_at(length.saturating_sub(8));
            if field[0] & 0x40 != 0 || high.iter().skip(1).any(|byte| *byte != 0) || high.first() != Some(&0x80) {
                return if high.is_empty() { Err(wrong()) } else { big_endian(field).ok_or_else(wrong) };
            }
            return big_endian(low).ok_or_else(wrong);
        }
        let digits: Vec<u8> = field.iter().copied().filter(|byte| *byte != b' ' && *byte != 0).collect();
        let mut value = 0_u64;
        for digit in digits {
            if !(b'0'..=b'7').contains(&digit) {
                return Err(wrong());
            }
            value = value.checked_mul(8).ok_or_else(wrong)? + u64::from(digit - b'0');
        }
        Ok(value)
    }

    fn checksum_fits(&self) -> bool {
        let Ok(stored) = self.number(148, 8, "checksum") else { return false };
        let sum = self.0.iter().enumerate().map(|(at, byte)| match at {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        });
        sum.sum::<u64>() == stored
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU archives have other things where ustar has the prefix.
        let ustar = self.bytes(257, 6) == b"ustar\0";
        let prefix = if ustar { self.text(345, 155) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }
}

fn big_endian(bytes: &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate() {
        let byte = if at == 0 && bytes.len() > 8 { byte & 0x3f } else { *byte };
        value = value.checked_mul(256)?.checked_add(u64::from(byte))?;
    }
    Some(value)
}

/// Lays the archive over the tree. `layer` is its place among those that are laid over each other, from 1.
///
/// # Errors
/// When it is no archive, holds what can't be, or more than the tree's limits allow. The tree is of no use then.
pub fn apply_tar(tree: &mut Tree, spool: &mut Spool, from: &mut impl Read, layer: u32) -> Result<(), ImageError> {
    // A few bytes may inflate to terabytes that nobody keeps.
    let headers = (tree.limits.inodes as u64).saturating_mul(8 * BLOCK as u64);
    let allowed = tree.limits.bytes.saturating_add(headers).saturating_sub(tree.inflated);
    let mut from = Counted { inner: from, left: allowed, exceeded: false };
    let applied = apply_entries(tree, spool, &mut from, layer);
    tree.inflated += allowed - from.left;
    if from.exceeded {
        Err(ImageError::TooLarge(format!("{allowed} bytes, with what it doesn't keep")))
    } else {
        applied
    }
}

/// Reads no more than it may.
struct Counted<'a, R> {
    inner: &'a mut R,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            self.exceeded = true;
            return Err(std::io::Error::other("too many bytes"));
        }
        let length = self.inner.read(&mut buffer[..most])?;
        self.left -= length as u64;
        Ok(length)
    }
}

fn apply_entries(tree: &mut Tree, spool: &mut Spool, from: &mut impl Read, layer: u32) -> Result<(), ImageError> {
    let mut global = Extended::default();
    let mut next: Option<Extended> = None;
    let mut block = [0_u8; BLOCK];
    let mut empty_blocks = 0;
    let mut headers = 0_usize;
    loop {
        if !read_block(from, &mut block)? {
            return Ok(());
        }
        if block.iter().all(|byte| *byte == 0) {
            empty_blocks += 1;
            if empty_blocks == 2 {
                return Ok(());
            }
            continue;
        }
        empty_blocks = 0;
        headers += 1;
        if headers > tree.limits.inodes.saturating_mul(3) {
            return Err(ImageError::TooLarge(format!("{} entries", tree.limits.inodes)));
        }
        let header = Header(&block);
        if !header.checksum_fits() {
            return Err(ImageError::archive("the checksum of an entry is wrong"));
        }
        let size = header.number(124, 12, "size")?;
        match block[156] {
            b'x' => read_pax(&read_small(from, size)?, next.get_or_insert_with(|| global.clone()))?,
            b'g' => read_pax(&read_small(from, size)?, &mut global)?,
            b'L' => next.get_or_insert_with(|| global.clone()).path = Some(long_text(read_small(from, size)?)),
            b'K' => next.get_or_insert_with(|| global.clone()).link = Some(long_text(read_small(from, size)?)),
            kind => {
                let extended = next.take().unwrap_or_else(|| global.clone());
                entry(tree, spool, from, &Header(&block), kind, extended, layer)?;
            }
        }
    }
}

/// False at the end.
fn read_block(from: &mut impl Read, block: &mut [u8; BLOCK]) -> Result<bool, ImageError> {
    let mut filled = 0;
    while filled < BLOCK {
        match from.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(ImageError::archive("it ends in the middle of an entry")),
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("reading an archive")(error)),
        }
    }
    Ok(true)
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn skip(from: &mut impl Read, size: u64) -> Result<(), ImageError> {
    let skipped = std::io::copy(&mut from.take(size), &mut std::io::sink()).map_err(failed("reading an archive"))?;
    if skipped == size { Ok(()) } else { Err(ImageError::archive("it ends in the middle of an entry")) }
}

fn read_small(from: &mut impl Read, size: u64) -> Result<Vec<u8>, ImageError> {
    if size > MAX_PAX {
        return Err(ImageError::TooLarge(format!("{MAX_PAX} bytes in an extended header")));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes).map_err(failed("reading an archive"))?;
    if bytes.len() as u64 != size {
        return Err(ImageError::archive("it ends in the middle of an extended header"));
    }
    skip(from, padding(size))?;
    Ok(bytes)
}

fn long_text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Records `LENGTH KEY=VALUE\n`.
fn read_pax(mut bytes: &[u8], into: &mut Extended) -> Result<(), ImageError> {
    let wrong = || ImageError::archive("an extended header is not valid");
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = number(&bytes[..space]).and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => into.path = Some(value.to_vec()),
            b"linkpath" => into.link = Some(value.to_vec()),
            b"size" => into.size = Some(number(value).ok_or_else(wrong)?),
            b"uid" => into.uid = Some(number(value).ok_or_else(wrong)?),
            b"gid" => into.gid = Some(number(value).ok_or_else(wrong)?),
            b"mtime" => into.mtime = time(value),
            b"GNU.sparse.major" | b"GNU.sparse.map" | b"GNU.sparse.size" => {
                return Err(ImageError::archive("sparse files are not supported"));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| is_kept(name)) {
                    into.xattrs.retain(|(known, _)| known != name);
                    into.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

/// `seconds[.fraction]`
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}

fn entry(
    tree: &mut Tree,
    spool: &mut Spool,
    from: &mut impl Read,
    header: &Header<'_>,
    kind: u8,
    extended: Extended,
    layer: u32,
) -> Result<(), ImageError> {
    let size = extended.size.map_or_else(|| header.number(124, 12, "size"), Ok)?;
    let raw_path = extended.path.unwrap_or_else(|| header.path());
    let parts = normalise(&raw_path)?;
    let id = |number: u64| u32::try_from(number).map_err(|_| ImageError::archive("an owner's id is too large"));
    let mut meta = Meta {
        mode: u16::try_from(header.number(100, 8, "mode")? & 0o7777).unwrap_or(0),
        uid: id(extended.uid.map_or_else(|| header.number(108, 8, "owner"), Ok)?)?,
        gid: id(extended.gid.map_or_else(|| header.number(116, 8, "group"), Ok)?)?,
        ..Meta::default()
    };
    (meta.mtime, meta.mtime_nsec) = match extended.mtime {
        Some(time) => time,
        None => (i64::try_from(header.number(136, 12, "time")?).unwrap_or(0), 0),
    };
    meta.xattrs.extend(extended.xattrs);
    tree.check_xattrs(&meta)?;
    let link = extended.link.unwrap_or_else(|| header.text(157, 100).to_vec());
    if link.len() > MAX_PATH {
        return Err(ImageError::archive("a link's target is too long"));
    }

    let Some((name, parents)) = parts.split_last() else {
        // The root itself.
        if kind == b'5' {
            describe_again(tree, 0, meta, layer)?;
        }
        return skip(from, size + padding(size));
    };
    if name.starts_with(WHITEOUT) {
        whiteout(tree, parents, name, layer)?;
        return skip(from, size + padding(size));
    }
    let parent = parent_of(tree, parents, layer)?;
    let existing = tree.entries(parent).and_then(|entries| entries.get(name)).copied();
    let new = |kind| Inode { kind, meta: meta.clone(), layer };
    let inode = match kind {
        b'0' | 0 | b'7' => {
            // A name that ends in a slash is a directory to old archivers.
            if raw_path.ends_with(b"/") && size == 0 {
                new(Kind::Directory(Default::default()))
            } else {
                if tree.bytes.saturating_add(size) > tree.limits.bytes {
                    return Err(ImageError::TooLarge(format!("{} bytes", tree.limits.bytes)));
                }
                let source = if size == 0 { Source::Empty } else { Source::Spool(spool.append(from, size)?) };
                skip(from, padding(size))?;
                let index = tree.add(new(Kind::File(Content { source, size })))?;
                return tree.link(parent, name, index);
            }
        }
        b'1' => {
            let mut steps = 0;
            let target = tree.walk_counting(&normalise(&link)?, false, &mut steps);
            tree.walked(steps)?;
            let target = target.filter(|target| !tree.inode(*target).is_directory());
            let target = target.ok_or_else(|| {
                ImageError::archive(format!("a link to `{}`, which is not there", String::from_utf8_lossy(&link)))
            })?;
            tree.link(parent, name, target)?;
            return skip(from, size + padding(size));
        }
        b'2' => new(Kind::Symlink(link)),
        b'5' => new(Kind::Directory(Default::default())),
        b'6' => new(Kind::Fifo),
        // Devices are nobody's business inside; the sandbox has its own /dev.
        b'3' | b'4' => return skip(from, size + padding(size)),
        other => {
            return Err(ImageError::archive(format!("an entry of the kind `{}`", char::from(other))));
        }
    };
    match existing {
        // What a directory holds stays when it is described again.
        Some(known) if inode.is_directory() && tree.inode(known).is_directory() => {
            describe_again(tree, known, meta, layer)?;
        }
        _ => {
            let index = tree.add(inode)?;
            tree.link(parent, name, index)?;
        }
    }
    skip(from, size + padding(size))
}

fn normalise(path: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(ImageError::archive("a path is too long"));
    }
    let parts: Vec<_> = split(path).into_iter().filter(|part| part != b".").collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(ImageError::archive(format!("`{}` leads out of the image", String::from_utf8_lossy(path))));
    }
    Ok(parts)
}

/// The directory for a new name, made where the archive forgot it. Links on the way are followed inside the tree.
fn parent_of(tree: &mut Tree, parents: &[Vec<u8>], layer: u32) -> Result<usize, ImageError> {
    if parents.len() > tree.limits.depth {
        return Err(ImageError::TooLarge(format!("{} directories in each other", tree.limits.depth)));
    }
    let mut here = 0;
    for (depth, part) in parents.iter().enumerate() {
        // From the root each time a link may be on the way, so that its `..` is understood.
        let mut steps = 1;
        let next = match tree.entries(here).and_then(|entries| entries.get(part)).copied() {
            Some(next) if tree.inode(next).is_directory() => Some(next),
            Some(next) if matches!(tree.inode(next).kind, Kind::Symlink(_)) => {
                tree.walk_counting(&parents[..=depth], true, &mut steps)
            }
            _ => None,
        };
        tree.walked(steps)?;
        here = match next.filter(|next| tree.inode(*next).is_directory()) {
            Some(next) => next,
            None => {
                let index = tree.add(Inode { layer, ..plain_directory() })?;
                tree.link(here, part, index)?;
                index
            }
        };
    }
    Ok(here)
}

/// A directory that is there already: it is this layer's now.
fn describe_again(tree: &mut Tree, directory: usize, meta: Meta, layer: u32) -> Result<(), ImageError> {
    let xattrs: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    tree.remember(xattrs as u64)?;
    let inode = &mut tree.inodes[directory];
    (inode.meta, inode.layer) = (meta, layer);
    Ok(())
}

/// Takes away what earlier layers have brought, wherever in the archive that is said.
fn whiteout(tree: &mut Tree, parents: &[Vec<u8>], name: &[u8], layer: u32) -> Result<(), ImageError> {
    let mut steps = 1;
    let directory = tree.walk_counting(parents, true, &mut steps);
    tree.walked(steps)?;
    let Some(directory) = directory else { return Ok(()) };
    if name == OPAQUE_WHITEOUT {
        return take_older(tree, directory, layer);
    }
    let target = &name[WHITEOUT.len()..];
    let Some(gone) = tree.entries(directory).and_then(|entries| entries.get(target)).copied() else { return Ok(()) };
    if tree.inode(gone).is_directory() {
        take_older(tree, gone, layer)?;
    }
    let stays = tree.inode(gone).layer >= layer || tree.entries(gone).is_some_and(|entries| !entries.is_empty());
    if !stays && let Some(entries) = tree.entries_mut(directory) {
        entries.remove(target);
    }
    Ok(())
}

/// Takes everything out of a directory that is older than `layer`, but for directories in which something newer is.
fn take_older(tree: &mut Tree, directory: usize, layer: u32) -> Result<(), ImageError> {
    // From above to below; then back, so that each directory is judged by what is left in it.
    let mut directories = vec![directory];
    let mut at = 0;
    while at < directories.len() {
        let entries = tree.entries(directories[at]);
        let steps = entries.map_or(0, |entries| entries.len() as u64);
        directories.extend(
            entries.into_iter().flat_map(|entries| entries.values()).filter(|it| tree.inode(**it).is_directory()),
        );
        tree.walked(steps)?;
        at += 1;
    }
    for directory in directories.into_iter().rev() {
        let Some(entries) = tree.entries_mut(directory) else { continue };
        let mut entries = std::mem::take(entries);
        entries.retain(|_, index| {
            tree.inode(*index).layer >= layer || tree.entries(*index).is_some_and(|inside| !inside.is_empty())
        });
        if let Some(place) = tree.entries_mut(directory) {
            *place = entries;
        }
    }
    Ok(())
}
