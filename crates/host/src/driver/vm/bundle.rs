//! A machine's layer as one file that travels to other hosts: its disk, and what it had in memory if that was kept.
//!
//! Behind [`MAGIC`], for each file of [`FILES`] that is there, in that order: its name and length, then its pieces that
//! are not all zero, each with its place, to an end mark. So holes cost nothing, and the same layer gives the same
//! bytes however its files lie on the disk. What comes is anybody's: places must ascend, pieces have the one size, and
//! lengths have bounds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};

use super::kept::SHAPE;
use super::stored::{DEVICES, MEMORY};

/// How such a file begins. No erofs image does.
pub const MAGIC: [u8; 16] = *b"atoll machine 1\n";
pub(super) const DISK: &str = "disk";
/// In this order, with the longest that each may be.
const FILES: [(&str, u64); 4] = [(DISK, 64 << 40), (SHAPE, 4096), (MEMORY, 16 << 40), (DEVICES, 256 << 20)];
/// All but the last piece of a file have this size.
const PIECE: usize = 64 << 10;
const END: u64 = u64::MAX;

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a machine's layer: {what}"))
}

/// Writes these files, by their names of [`FILES`] and in that order.
pub(super) fn write(files: &[(&str, File)], into: &mut dyn Write) -> io::Result<()> {
    into.write_all(&MAGIC)?;
    for (name, file) in files {
        let size = file.metadata()?.len();
        into.write_all(&[u8::try_from(name.len()).map_err(io::Error::other)?])?;
        into.write_all(name.as_bytes())?;
        into.write_all(&size.to_le_bytes())?;
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        while let Some(place) = data_from(file, at, size)? {
            let piece = &mut piece[..length_at(place, size)];
            file.read_exact_at(piece, place)?;
            if piece.iter().any(|byte| *byte != 0) {
                into.write_all(&place.to_le_bytes())?;
                into.write_all(piece)?;
            }
            at = place + PIECE as u64;
        }
        into.write_all(&END.to_le_bytes())?;
    }
    into.write_all(&[0])
}

/// The place of the first piece from `at` on that is no hole.
fn data_from(file: &File, at: u64, size: u64) -> io::Result<Option<u64>> {
    if at >= size {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(place) => Ok(Some(place - place % PIECE as u64)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn length_at(place: u64, size: u64) -> usize {
    usize::try_from(size - place).map_or(PIECE, |left| left.min(PIECE))
}

/// Reads one into files that `make` makes, sparse as they were. The names that were in it.
pub(super) fn read(
    from: &mut dyn Read,
    make: &mut dyn FnMut(&'static str) -> io::Result<File>,
) -> io::Result<Vec<&'static str>> {
    if array::<16>(from)? != MAGIC {
        return Err(wrong("it does not begin as one"));
    }
    let (mut names, mut left) = (Vec::new(), FILES.into_iter());
    loop {
        let length = array::<1>(from)?[0];
        if length == 0 {
            break;
        }
        let mut name = vec![0; usize::from(length)];
        from.read_exact(&mut name)?;
        let known = left.by_ref().find(|(known, _)| known.as_bytes() == name);
        let (name, most) = known.ok_or_else(|| wrong("a file that it can't have there"))?;
        let size = u64::from_le_bytes(array(from)?);
        if size > most {
            return Err(wrong(&format!("a {name} of {size} bytes")));
        }
        let file = make(name)?;
        file.set_len(size)?;
        let (mut piece, mut next) = (vec![0; PIECE], 0);
        loop {
            let place = u64::from_le_bytes(array(from)?);
            if place == END {
                break;
            }
            if place < next || place >= size || place % PIECE as u64 != 0 {
                return Err(wrong("a piece that has no place"));
            }
            let piece = &mut piece[..length_at(place, size)];
            from.read_exact(piece)?;
            file.write_all_at(piece, place)?;
            next = place + PIECE as u64;
        }
        names.push(name);
    }
    if from.read(&mut [0])? != 0 {
        return Err(wrong("bytes behind its end"));
    }
    if names.len() == FILES.len() || names == [DISK] { Ok(names) } else { Err(wrong("files are missing")) }
}

fn array<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn file() -> File {
        tempfile::tempfile_in("/var/tmp").unwrap()
    }

    /// A file of so many bytes with these pieces in it.
    fn with(size: u64, pieces: &[(u64, Vec<u8>)]) -> File {
        let file = file();
        file.set_len(size).unwrap();
        for (place, bytes) in pieces.iter().filter(|(place, _)| *place < size) {
            let length = bytes.len().min(usize::try_from(size - place).unwrap());
            file.write_all_at(&bytes[..length], *place).unwrap();
        }
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn unbundled(bundle: &[u8]) -> io::Result<HashMap<&'static str, File>> {
        let mut found = HashMap::new();
        read(&mut &*bundle, &mut |name| {
            let made = file();
            found.insert(name, made.try_clone()?);
            Ok(made)
        })
        .map(|_| found)
    }

    fn bundle(files: &[(&'static str, File)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(files, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn files_are_what_they_were_and_the_same_files_give_the_same_bytes(
            size in 0_u64..2_000_000,
            pieces in proptest::collection::vec((0_u64..2_000_000, proptest::collection::vec(any::<u8>(), 1..5000)), 0..6),
            memory in any::<bool>(),
        ) {
            let disk = with(size, &pieces);
            let dense = file();
            dense.write_all_at(&bytes(&disk), 0).unwrap();
            let files = |disk: &File| {
                let mut files = vec![(DISK, disk.try_clone().unwrap())];
                if memory {
                    let rest = [SHAPE, MEMORY, DEVICES].map(|name| (name, with(300, &[(0, name.into())])));
                    files.extend(rest);
                }
                files
            };
            let packed = bundle(&files(&disk));
            prop_assert!(packed == bundle(&files(&dense)));
            let found = unbundled(&packed).unwrap();
            prop_assert_eq!(found.len(), if memory { 4 } else { 1 });
            prop_assert!(bytes(&found[DISK]) == bytes(&disk));
            if memory {
                prop_assert!(bytes(&found[MEMORY]).starts_with(MEMORY.as_bytes()));
            }
        }

        #[test]
        fn hostile_bytes_are_refused_or_harmless(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let files = [(DISK, with(200_000, &[(70_000, vec![3; 90_000])]))];
            let whole = bundle(&files);
            let mut changed = whole.clone();
            for (at, value) in changes {
                let at = at.index(changed.len());
                changed[at] = value;
            }
            if let Some(cut) = cut {
                changed.truncate(cut.index(changed.len()));
                prop_assert!(unbundled(&changed).is_err(), "it was cut");
            } else if let Ok(found) = unbundled(&changed) {
                // A change of a length or of content, which the digest of the whole tells.
                prop_assert!(found[DISK].metadata().unwrap().blocks() * 512 <= whole.len() as u64 + (128 << 10));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(unbundled(&[&MAGIC[..], &bytes].concat()).is_err() || bytes == [0]);
            prop_assert!(unbundled(&bytes).is_err());
        }
    }

    #[test]
    fn what_does_not_belong_into_one_is_refused() {
        let one = |name: &str, size: u64, rest: &[u8]| {
            let mut text = MAGIC.to_vec();
            text.push(u8::try_from(name.len()).unwrap());
            text.extend(name.as_bytes());
            text.extend(size.to_le_bytes());
            text.extend(rest);
            unbundled(&text).unwrap_err().to_string()
        };
        let end = [&END.to_le_bytes()[..], &[0]].concat();
        assert!(one("../../etc/passwd", 1, &end).contains("can't have"));
        assert!(one(MEMORY, 4096, &end).contains("missing"));
        assert!(one(DISK, u64::MAX, &end).contains("bytes"));
        assert!(one(DISK, 100, &[&end[..], b"x"].concat()).contains("behind its end"));
        assert!(one(DISK, 1 << 20, &[1; 20]).contains("no place"));
        let twice = [bundle(&[(DISK, file())]), bundle(&[(DISK, file())])].concat();
        assert!(unbundled(&twice).is_err());
    }
}
