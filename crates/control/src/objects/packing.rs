//! An object's content in the other form, made while it is sent: packed for who asks, raw for hosts that can't unpack.

use std::fs::File;
use std::io;

use atoll_image::packed::{Packing, Unpacker};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{Content, Form};

impl Content {
    /// Of a file that lies raw somewhere on this machine, packed on the way.
    pub fn packing(file: File) -> io::Result<Self> {
        let pieces = stream::try_unfold(Packing::new(file)?, |mut packing| async {
            let next = tokio::task::spawn_blocking(move || packing.next().map(|piece| (piece, packing)));
            match next.await.map_err(io::Error::other)? {
                Some((piece, packing)) => Ok(Some((Bytes::from(piece?), packing))),
                None => Ok(None),
            }
        });
        Ok(Self { bytes: None, form: Form::Packed, stream: pieces.boxed() })
    }

    /// The image itself.
    pub fn raw(self) -> io::Result<Self> {
        if self.form == Form::Raw {
            return Ok(self);
        }
        let stream = unpacked(self.stream)?;
        Ok(Self { bytes: None, form: Form::Raw, stream })
    }
}

fn unpacked(packed: BoxStream<'static, io::Result<Bytes>>) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let pieces = stream::try_unfold(Some((packed, Unpacker::new()?)), |state| async {
        let Some((mut packed, mut unpacker)) = state else { return Ok(None) };
        let next = packed.try_next().await?;
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut image = Vec::new();
            let Some(bytes) = next else { return unpacker.finish().map(|()| (image, None)) };
            let mut take = |piece: &[u8]| {
                image.extend_from_slice(piece);
                Ok(())
            };
            unpacker.push(&bytes, &mut take)?;
            Ok((image, Some(unpacker)))
        });
        let (image, unpacker) = unpacking.await.map_err(io::Error::other)??;
        Ok(Some((Bytes::from(image), unpacker.map(|unpacker| (packed, unpacker)))))
    });
    Ok(pieces.try_filter(|piece| std::future::ready(!piece.is_empty())).boxed())
}
