//! What is promised of packed images, and of bytes that are none.

use std::io::{Cursor, Read};

use proptest::prelude::*;

use super::*;

fn packed(image: &[u8]) -> Vec<u8> {
    let pieces: Result<Vec<_>, _> = Packing::new(image).unwrap().collect();
    pieces.unwrap().concat()
}

/// The image, or why there is none. Never shows more than `most` bytes.
fn unpacked(bytes: &[u8], cut: usize, most: usize) -> std::io::Result<Vec<u8>> {
    let (mut unpacker, mut image) = (Unpacker::new()?, Vec::new());
    for portion in bytes.chunks(cut) {
        unpacker.push(portion, &mut |piece| {
            image.extend_from_slice(piece);
            assert!(image.len() <= most, "{} bytes of {most}", image.len());
            Ok(())
        })?;
    }
    unpacker.finish().map(|()| image)
}

/// Some that can be packed and some that can't, in chunks and a bit.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![0_usize..300, CHUNK - 2..CHUNK + 3, CHUNK * 2..CHUNK * 3];
    (lengths, any::<u64>(), any::<bool>()).prop_map(|(length, seed, random)| {
        let mut state = seed | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if random { (state >> 32) as u8 } else { (state >> 62) as u8 }
        };
        std::iter::repeat_with(next).take(length).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_unpacked_however_it_is_cut(image in image(), cut in 1_usize..200_000) {
        let bytes = packed(&image);
        prop_assert!(unpacked(&bytes, cut.max(bytes.len() / 500), image.len()).unwrap() == image);
    }

    /// A copy of it with changed, missing or further bytes is either refused or, where the change means nothing to
    /// zstd, shows no more than a chunk more than it says.
    #[test]
    fn hostile_bytes_are_refused_and_never_shown_as_more_than_they_may_be(
        image in image(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in proptest::option::of(any::<prop::sample::Index>()),
        more in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let whole = packed(&image);
        let mut bytes = whole.clone();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        bytes.extend(&more);
        let most = image.len() + MAX_CHUNK * (1 + bytes.len() / 9).min(16);
        match unpacked(&bytes, 70_000, most) {
            Ok(_) => prop_assert!(bytes.len() == whole.len(), "bytes were lost or added unseen"),
            Err(error) => prop_assert!(bytes != whole, "{error}"),
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..4000), framed in any::<bool>()) {
        let mut all = if framed { FRAME_MAGIC.to_le_bytes().to_vec() } else { Vec::new() };
        all.extend(&bytes);
        prop_assert!(unpacked(&all, 100, MAX_CHUNK * 2).is_err());
    }
}

fn frames(sizes: &[usize]) -> Vec<u8> {
    sizes.iter().flat_map(|size| zstd::bulk::compress(&vec![7; *size], 1).unwrap()).collect()
}

fn refusal(bytes: &[u8]) -> String {
    unpacked(bytes, 5000, MAX_CHUNK + PIECES).unwrap_err().to_string()
}

/// What is shown of a chunk before it is known to be too large.
const PIECES: usize = 128 << 10;

#[test]
fn bombs_are_refused_before_they_take_memory() {
    // A frame of 64 MB in some kilobytes; one that says nothing of its size; one with a window of 128 MB.
    assert!(refusal(&frames(&[64 << 20])).contains("too large"));
    let endless = zstd::stream::encode_all(std::io::repeat(0).take(64 << 20), 1).unwrap();
    assert!(refusal(&endless).contains("too large"), "{}", refusal(&endless));
    let mut wide = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    wide.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(1 << 20), &mut wide).unwrap();
    assert!(refusal(&wide.finish().unwrap()).contains("too much memory"));
    // Many small chunks would make a large table.
    assert!(refusal(&frames(&[1000, 1000])).contains("other sizes"));
    assert!(refusal(&frames(&[0])).contains("empty"));
    assert!(refusal(&frames(&[MIN_CHUNK, MIN_CHUNK - 1, MIN_CHUNK])).contains("other sizes"));
    assert!(refusal(&frames(&[MIN_CHUNK, MIN_CHUNK + 1])).contains("too large"));
}

#[test]
fn a_table_must_be_what_was_seen() {
    let whole = packed(&vec![1; CHUNK + 5]);
    let table = whole.len() - (2 * ENTRY + FOOTER);
    for at in table - WORDS..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(refusal(&bytes).contains("table"), "byte {} of the table", at - table);
    }
    assert!(refusal(&[whole.as_slice(), b"x"].concat()).contains("behind its end"));
    assert!(refusal(&whole[..whole.len() - 1]).contains("not whole"));
    assert!(refusal(&[]).contains("not whole"));
}

/// The table's magic number and length.
const WORDS: usize = 8;

#[test]
fn any_zstd_reads_it() {
    let image: Vec<u8> = (0..CHUNK * 2 + 77).map(|at| (at / 900) as u8).collect();
    let bytes = packed(&image);
    assert!(bytes.len() < image.len() / 20);
    assert!(zstd::stream::decode_all(Cursor::new(bytes)).unwrap() == image);
}

#[test]
fn an_index_says_the_same_whoever_makes_it_and_gives_each_chunk_alone() {
    let image: Vec<u8> = (0..CHUNK * 2 + 77).map(|at| (at / 900) as u8).collect();
    let mut packer = Packer::indexing().unwrap();
    let mut bytes = packer.push(&image).unwrap();
    let (end, index) = packer.finish_indexed().unwrap();
    bytes.extend(end);
    let index = index.unwrap();
    let mut unpacker = Unpacker::indexing().unwrap();
    for portion in bytes.chunks(5000) {
        unpacker.push(portion, &mut |_| Ok(())).unwrap();
    }
    assert_eq!(unpacker.index().unwrap(), index);
    assert_eq!(Index::decode(&index.encode()).unwrap(), index);
    assert_eq!(index.image_bytes(), image.len() as u64);
    let mut again = Vec::new();
    for (number, chunk) in index.chunks().iter().enumerate() {
        let place = index.packed(&(number..number + 1));
        let packed = &bytes[place.start as usize..place.end as usize];
        again.extend(chunk.unpack(packed).unwrap());
        let mut wrong = packed.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        assert!(chunk.unpack(&wrong).is_err() && chunk.unpack(&packed[1..]).is_err());
    }
    assert!(again == image);
    let chunk = CHUNK as u64;
    assert_eq!(index.holding(0, 1), 0..1);
    assert_eq!(index.holding(chunk - 1, 2), 0..2);
    assert_eq!(index.holding(chunk, chunk), 1..2);
    assert_eq!(index.holding(0, u64::MAX), 0..3);
    assert_eq!(index.holding(u64::MAX, u64::MAX), 3..3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_index_that_was_changed_is_refused_or_is_one_of_sizes_within_their_bounds(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let chunk = |raw: usize| Chunk { packed: 100, raw: raw as u32, sha256: [7; 32] };
        let mut bytes = Index::new(vec![chunk(CHUNK), chunk(CHUNK), chunk(5)]).encode();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let whole = bytes.len();
        bytes.truncate(end.map_or(whole, |end| end.index(whole)));
        if let Ok(index) = Index::decode(&bytes) {
            prop_assert!(bytes.len() == whole && index.chunks().iter().all(|it| it.raw > 0 && it.raw as usize <= MAX_CHUNK));
        }
    }
}
