//! Decompressing an upload as it arrives.
//!
//! A few bytes can stand for very many; so little is decompressed at a time that what is held in memory stays bounded.

use std::io::{self, Write};

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use futures::stream::{self, Stream, StreamExt};

use super::CHUNK;

/// Compressed bytes taken at a time: they become at most about a thousand times as many.
const STEP: usize = 1024;

struct State<S> {
    chunks: S,
    pending: Bytes,
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
}

/// The stream's content, decompressed.
pub fn gunzip(
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let state = State { chunks, pending: Bytes::new(), decoder: Some(MultiGzDecoder::new(Vec::new())) };
    stream::unfold(state, |mut state| async move {
        let piece = state.next_piece().await.transpose()?;
        if piece.is_err() {
            state.decoder = None;
        }
        Some((piece, state))
    })
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> State<S> {
    async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(None) };
            while !self.pending.is_empty() && decoder.get_ref().len() < CHUNK {
                let step = self.pending.len().min(STEP);
                decoder.write_all(&self.pending[..step]).map_err(broken)?;
                self.pending.advance(step);
            }
            if decoder.get_ref().len() >= CHUNK {
                return Ok(Some(std::mem::take(decoder.get_mut()).into()));
            }
            match self.chunks.next().await {
                Some(chunk) => self.pending = chunk?,
                None => {
                    let rest = self.decoder.take().map(MultiGzDecoder::finish).transpose().map_err(broken)?;
                    return Ok(rest.filter(|rest| !rest.is_empty()).map(Bytes::from));
                }
            }
        }
    }
}

fn broken(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the body isn't valid gzip: {error}"))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).expect("compressed");
        encoder.finish().expect("compressed")
    }

    fn inflate(compressed: &[u8], step: usize) -> Vec<io::Result<Bytes>> {
        let chunks = compressed.chunks(step).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
        futures::executor::block_on(gunzip(stream::iter(chunks)).collect())
    }

    #[test]
    fn what_was_compressed_comes_out_again_however_it_was_cut() {
        let data: Vec<u8> = (0..300_000_u32).map(|number| (number / 7 % 251) as u8).collect();
        for step in [1, 100, 1_000_000] {
            let pieces = inflate(&gzip(&data), step);
            let all: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.expect("valid").to_vec()).collect();
            assert!(all == data, "cut by {step}");
        }
    }

    #[test]
    fn a_few_bytes_that_stand_for_many_come_out_in_bounded_pieces() {
        let pieces = inflate(&gzip(&vec![0; 20_000_000]), 1_000_000);
        assert!(pieces.iter().all(|piece| piece.as_ref().is_ok_and(|piece| piece.len() <= CHUNK + STEP * 1100)));
        assert_eq!(pieces.iter().flatten().map(Bytes::len).sum::<usize>(), 20_000_000);
    }

    #[test]
    fn what_is_no_gzip_is_an_error() {
        assert!(inflate(b"hello, this is not gzip at all", 1000).iter().any(Result::is_err));
        let whole = gzip(&[1; 1000]);
        assert!(inflate(&whole[..whole.len() - 4], 1000).iter().any(Result::is_err));
    }
}
