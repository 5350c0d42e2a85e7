//! Indexes of images, and the parts of images that hosts fetch by them.
//!
//! An image gets its index while it is written. One of before has none: whoever asks gets the whole image then, and the
//! index is made meanwhile, one at a time, for whoever asks next.

use std::io::{self, Write};
use std::ops::Range;

use atoll_image::packed::{Index, MAX_INDEX, Unpacker};
use bytes::Bytes;
use futures::TryStreamExt;

use super::{Content, Form, ObjectError, Objects, image_name, index_name};

impl Objects {
    pub(super) async fn keep_index(&self, digest: &str, index: &Index) -> Result<(), ObjectError> {
        let mut file = self.temporary()?;
        file.write_all(&index.encode()).map_err(ObjectError::io("writing an index into", self.folder()))?;
        self.keep(file, index_name(digest)).await
    }

    /// The index of an image; none when there is none.
    pub async fn index(&self, digest: &str) -> Result<Option<Bytes>, ObjectError> {
        let Some(mut content) = self.read_name(&index_name(digest), Form::Raw).await? else { return Ok(None) };
        let mut bytes = bytes::BytesMut::new();
        while let Some(piece) = content.stream.try_next().await.map_err(ObjectError::io("reading", self.folder()))? {
            if bytes.len() + piece.len() > MAX_INDEX {
                return Err(ObjectError::TooLarge(digest.to_owned()));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Makes the index of an image that has none, unless that is done for another at the moment. Whether it was made.
    pub async fn make_index(&self, digest: &str) -> Result<bool, ObjectError> {
        let Ok(_turn) = self.indexing.try_acquire() else { return Ok(false) };
        let packed = self.read_name(&image_name(digest), Form::Packed).await?;
        let Some(mut content) = packed else { return Ok(false) };
        let reading = |error: io::Error| ObjectError::io("reading an image in", self.folder())(error);
        let mut unpacker = Unpacker::indexing().map_err(reading)?;
        while let Some(piece) = content.stream.try_next().await.map_err(reading)? {
            let unpacking =
                tokio::task::spawn_blocking(move || unpacker.push(&piece, &mut |_| Ok(())).map(|()| unpacker));
            let unpacked = unpacking.await.map_err(|error| ObjectError::other("reading an image", error))?;
            unpacker = unpacked.map_err(reading)?;
        }
        let index = unpacker.index();
        unpacker.finish().map_err(reading)?;
        let Some(index) = index else { return Ok(false) };
        self.keep_index(digest, &index).await?;
        // Deleted meanwhile: what is left of it goes as well, or with the strays.
        if !self.has(digest).await? {
            self.delete_name(&index_name(digest)).await?;
        }
        Ok(true)
    }

    /// These bytes of a packed image, or as many of them as it has, and how many it has in all. None when it is not there,
    /// not packed, or has none of them.
    pub async fn part_of_image(&self, digest: &str, part: Range<u64>) -> Result<Option<(Content, u64)>, ObjectError> {
        let name = image_name(digest);
        let total = match &self.bucket {
            Some(bucket) => bucket.bytes(&name).await?,
            None => self.folder.bytes(&name).await?,
        };
        let Some(total) = total else { return Ok(None) };
        let part = part.start..part.end.min(total);
        if part.is_empty() {
            return Ok(None);
        }
        let content = match &self.bucket {
            Some(bucket) => bucket.read_range(&name, part).await?,
            None => match self.folder.read(&name).await? {
                Some(file) => Some(
                    Content::of_part(file, part, Form::Packed)
                        .await
                        .map_err(ObjectError::io("reading", self.folder()))?,
                ),
                None => None,
            },
        };
        Ok(content.map(|content| (Content { form: Form::Packed, ..content }, total)))
    }
}
