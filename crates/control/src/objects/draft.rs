//! An image that is being written: hashed as it is, kept packed, bounded, and an object only if it is what its name says.
//! Its index is made on the way, and is there before the image.

use std::fs::File;
use std::io::{self, Write};

use atoll_image::packed::{Index, Packer, Unpacker};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{ObjectError, Objects, image_name};

/// What the bytes of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Raw,
    /// As `atoll_image::packed` has it.
    Packed,
}

pub struct Draft {
    objects: Objects,
    digest: String,
    state: Option<State>,
}

struct State {
    file: NamedTempFile,
    hasher: Sha256,
    /// Bytes of the image that may come yet.
    left: u64,
    work: Work,
}

enum Work {
    Pack(Packer),
    /// It came packed, and is kept as it came.
    Check(Unpacker),
}

/// What was wrong with a piece.
enum Problem {
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let (hasher, left) = (&mut self.hasher, &mut self.left);
        let mut too_large = false;
        let mut take = |image: &[u8]| {
            let Some(rest) = left.checked_sub(image.len() as u64) else {
                too_large = true;
                return Err(io::ErrorKind::FileTooLarge.into());
            };
            *left = rest;
            hasher.update(image);
            Ok(())
        };
        let file: &mut File = self.file.as_file_mut();
        let written = match &mut self.work {
            Work::Pack(packer) => take(bytes).and_then(|()| file.write_all(&packer.push(bytes)?)),
            Work::Check(unpacker) => unpacker.push(bytes, &mut take).and_then(|()| file.write_all(bytes)),
        };
        match written {
            Err(_) if too_large => Err(Problem::TooLarge),
            written => Ok(written?),
        }
    }

    fn finish(mut self) -> io::Result<(NamedTempFile, String, Option<Index>)> {
        let index = match self.work {
            Work::Pack(packer) => {
                let (end, index) = packer.finish_indexed()?;
                self.file.write_all(&end)?;
                index
            }
            Work::Check(unpacker) => {
                let index = unpacker.index();
                unpacker.finish()?;
                index
            }
        };
        Ok((self.file, hex::encode(self.hasher.finalize()), index))
    }
}

fn lost() -> ObjectError {
    ObjectError::other("storing an image", "an earlier write has failed")
}

impl Draft {
    pub(super) fn begin(objects: Objects, digest: &str, most: u64) -> Result<Self, ObjectError> {
        let packer = Packer::indexing().map_err(|error| ObjectError::other("packing an image", error))?;
        let (file, hasher) = (objects.temporary()?, Sha256::new());
        let state = State { file, hasher, left: most, work: Work::Pack(packer) };
        Ok(Self { objects, digest: digest.to_owned(), state: Some(state) })
    }

    /// What comes is in this form. To be said before anything came.
    pub fn comes(&mut self, form: Form) -> Result<(), ObjectError> {
        let state = self.state.as_mut().ok_or_else(lost)?;
        if form == Form::Packed {
            let unpacker = Unpacker::indexing().map_err(|error| ObjectError::other("unpacking an image", error))?;
            state.work = Work::Check(unpacker);
        }
        Ok(())
    }

    /// Appends. Hashing, packing and writing happen off the async threads.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let mut state = self.state.take().ok_or_else(lost)?;
        let writing = tokio::task::spawn_blocking(move || state.write(&bytes).map(|()| state));
        let written = writing.await.map_err(|error| ObjectError::other("storing an image", error))?;
        self.state = Some(written.map_err(|problem| match problem {
            Problem::TooLarge => ObjectError::TooLarge(self.digest.clone()),
            Problem::Io(error) => ObjectError::io("writing an image into", self.objects.folder())(error),
        })?);
        Ok(())
    }

    /// Puts it into place, if it is what its name says.
    pub async fn finish(mut self) -> Result<(), ObjectError> {
        let state = self.state.take().ok_or_else(lost)?;
        let finishing = tokio::task::spawn_blocking(move || state.finish());
        let finished = finishing.await.map_err(|error| ObjectError::other("storing an image", error))?;
        let (file, found, index) = finished.map_err(ObjectError::io("writing an image into", self.objects.folder()))?;
        if found != self.digest {
            return Err(ObjectError::WrongDigest { wanted: self.digest, found });
        }
        if let Some(index) = index {
            self.objects.keep_index(&found, &index).await?;
        }
        crate::failpoint!("control::objects::before_keep");
        self.objects.keep(file, image_name(&found)).await?;
        crate::failpoint!("control::objects::after_keep");
        Ok(())
    }
}
