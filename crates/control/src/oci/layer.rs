//! One layer of an image: an archive, as it came from a stranger, laid over what the layers below have made.
//!
//! However it is compressed, it is read as a stream: its size is what the tree allows, and a decoder's memory has a
//! bound of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Weak;

use atoll_image::{Spool, Tree, apply_tar};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::pull::invalid;
use super::registry::OciError;

/// What is read of a file, and of a decoder, at a time.
const PIECE: usize = 256 << 10;
/// The largest window of zstd's that is read, as a power of two, and so what a layer's decoder may take: 128 MiB, as much
/// as `zstd -d` takes without being told to, and `zstd -22 --ultra` asks for.
const LARGEST_WINDOW: u32 = 27;
/// Padding behind an archive's end.
const MAX_PADDING: u64 = 64 << 20;

/// What a layer's archive is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// As the media type of a layer has it: OCI's names end in `tar+gzip`, Docker's in `tar.gzip`.
    pub(super) fn of(media_type: &str) -> Option<Self> {
        let ends = |with: &str| media_type.ends_with(with);
        match () {
            () if ends(".tar") => Some(Self::None),
            () if ends(".tar+gzip") || ends(".tar.gzip") => Some(Self::Gzip),
            () if ends(".tar+zstd") || ends(".tar.zstd") => Some(Self::Zstd),
            () => None,
        }
    }

    fn unpack<'a>(self, packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(LARGEST_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// Reads and hashes, for as long as somebody wants it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    wanted: Weak<()>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wanted.strong_count() == 0 {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// Lays a layer over the tree; the digest of its bytes without compression.
pub(super) fn apply(
    tree: &mut Tree,
    spool: &mut Spool,
    packed: impl Read,
    compression: Compression,
    place: u32,
    wanted: Weak<()>,
) -> Result<String, OciError> {
    let unread = |error: io::Error| invalid(format!("a layer can't be read: {error}"));
    let plain = compression.unpack(BufReader::with_capacity(PIECE, packed)).map_err(unread)?;
    let mut reader = Hashing { inner: BufReader::with_capacity(PIECE, plain), hasher: Sha256::new(), wanted };
    apply_tar(tree, spool, &mut reader, place)?;
    // What stands behind the archive's end belongs to its digest, too; no more than padding may.
    io::copy(&mut (&mut reader).take(MAX_PADDING), &mut io::sink()).map_err(unread)?;
    Ok(format!("sha256:{}", hex::encode(reader.hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use atoll_image::{ImageError, Limits};
    use flate2::write::GzEncoder;
    use zstd::zstd_safe::CParameter;

    use super::*;

    const MIB: usize = 1 << 20;

    /// An entry of an archive, without its body's padding.
    fn entry(kind: u8, name: &str, body: &[u8]) -> Vec<u8> {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        [&header, body].concat()
    }

    /// With one file, of whole blocks.
    fn archive() -> Vec<u8> {
        let body: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
        [entry(b'0', "file", &body), vec![0; 1024]].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// With a window of so many bits, and a checksum at its end.
    fn zstd(bytes: &[u8], window: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(CParameter::WindowLog(window)).unwrap();
        encoder.include_checksum(true).unwrap();
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn digest(bytes: &[u8]) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
    }

    /// Applies it to an empty tree that takes a mebibyte; the digest, and what `file` has.
    fn applied(packed: &[u8], compression: Compression) -> Result<(String, u64), OciError> {
        let wanted = Arc::new(());
        let mut spool = Spool::create_in(Path::new("/var/tmp"))?;
        let mut tree = Tree::new(Limits { bytes: MIB as u64, inodes: 10, depth: 4, memory: MIB as u64 });
        let digest = apply(&mut tree, &mut spool, packed, compression, 1, Arc::downgrade(&wanted))?;
        let size = tree.find("file").map(|index| match &tree.inode(index).kind {
            atoll_image::Kind::File(content) => content.size,
            _ => 0,
        });
        Ok((digest, size.unwrap_or_default()))
    }

    #[test]
    fn the_media_type_says_how_a_layer_is_packed() {
        for (name, compression) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.v1.tar+zstd+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("", None),
        ] {
            assert_eq!(Compression::of(name), compression, "{name}");
        }
    }

    #[test]
    fn however_a_layer_is_packed_it_is_the_same() {
        let plain = archive();
        let same = (digest(&plain), 64 << 10);
        assert_eq!(applied(&plain, Compression::None).unwrap(), same);
        assert_eq!(applied(&gzip(&plain), Compression::Gzip).unwrap(), same);
        assert_eq!(applied(&zstd(&plain, 17), Compression::Zstd).unwrap(), same);
        // In pieces that stand alone, and with what decoders skip between and behind them, as containers/storage has it.
        let (first, second) = plain.split_at(1000);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], b"toc".as_slice()].concat();
        let pieces = [zstd(first, 17), skipped.clone(), zstd(second, 17), skipped].concat();
        assert_eq!(applied(&pieces, Compression::Zstd).unwrap(), same);
        assert_eq!(applied(&[gzip(first), gzip(second)].concat(), Compression::Gzip).unwrap(), same);
    }

    #[test]
    fn a_layer_that_ends_early_is_refused_wherever_it_is_cut() {
        let plain = archive();
        for (packed, compression) in [(gzip(&plain), Compression::Gzip), (zstd(&plain, 17), Compression::Zstd)] {
            // Even of its checksum nothing may be missing.
            for cut in [1, 4, packed.len() / 2, packed.len() - 5] {
                let cut = &packed[..packed.len() - cut];
                assert!(applied(cut, compression).is_err(), "{compression:?}: {} of {}", cut.len(), packed.len());
            }
        }
        // A byte of it changed, or it is something else.
        let mut spoiled = zstd(&plain, 17);
        *spoiled.last_mut().unwrap() ^= 1;
        assert!(applied(&spoiled, Compression::Zstd).is_err());
        assert!(applied(&gzip(&plain), Compression::Zstd).is_err());
        assert!(applied(&zstd(&plain, 17), Compression::Gzip).is_err());
        assert!(applied(b"", Compression::Zstd).is_err());
    }

    #[test]
    fn a_frame_that_asks_for_more_memory_than_anybody_needs_is_refused() {
        let plain = archive();
        assert_eq!(applied(&zstd(&plain, LARGEST_WINDOW), Compression::Zstd).unwrap().0, digest(&plain));
        let refused = |packed: &[u8]| {
            let refused = applied(packed, Compression::Zstd).unwrap_err().to_string();
            assert!(refused.contains("too much memory"), "{refused}");
        };
        refused(&zstd(&plain, LARGEST_WINDOW + 1));
        // By hand: a window of 2 GiB, and a frame that says to be a tebibyte and to have it all in its window.
        let raw = [1, 0, 0];
        refused(&[&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3], raw.as_slice()].concat());
        refused(&[&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], (1_u64 << 40).to_le_bytes().as_slice(), &raw].concat());
    }

    #[test]
    fn few_bytes_that_unpack_to_many_are_read_no_further_than_the_tree_allows() {
        let zeros = vec![0; 64 * MIB];
        // As a file, and as what is not even kept.
        for kind in [b'0', b'3'] {
            let plain = [entry(kind, "file", &zeros), vec![0; 1024]].concat();
            for (packed, compression) in [(gzip(&plain), Compression::Gzip), (zstd(&plain, 20), Compression::Zstd)] {
                assert!(packed.len() < MIB, "{}", packed.len());
                let refused = applied(&packed, compression).unwrap_err();
                assert!(matches!(refused, OciError::Image(ImageError::TooLarge(_))), "{compression:?}: {refused}");
            }
        }
        // Behind the archive's end, where padding may be: more than that counts for no digest.
        let mut plain = archive();
        plain.resize(plain.len() + 65 * MIB, 0);
        let found = applied(&zstd(&plain, 20), Compression::Zstd).unwrap().0;
        assert_ne!(found, digest(&plain));
    }

    #[test]
    fn a_layer_that_nobody_waits_for_is_read_no_further() {
        let wanted = Arc::new(());
        let endless = io::repeat(7);
        let mut reader = Hashing { inner: endless, hasher: Sha256::new(), wanted: Arc::downgrade(&wanted) };
        let mut buffer = [0; 512];
        assert_eq!(reader.read(&mut buffer).unwrap(), 512);
        drop(wanted);
        assert!(reader.read(&mut buffer).is_err());
    }
}
