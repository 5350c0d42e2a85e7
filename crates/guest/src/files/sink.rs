//! Writing a stream to a file: made, given to its user, filled.
//!
//! A small content is written by a single call, which watchers see as exactly three events: created, attributes (the
//! change of owner), written. A large one is written in pieces while the next piece arrives.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::FileError;
use super::metadata::{self, Notes};
use crate::filesystem::tree::ensure_directory;
use crate::guest::Guest;
use crate::rights;
use crate::users::Account;

/// What is written at a time, at least, unless it is the last.
const BATCH: usize = 512 * 1024;
/// Pieces of a network message in one write; the kernel takes up to 1,024.
const MAX_PARTS: usize = 512;

pub struct Target {
    pub path: String,
    pub account: Account,
    /// With the account's own rights.
    pub as_user: bool,
}

/// What arrived since the last write.
#[derive(Default)]
struct Batch {
    parts: Vec<Bytes>,
    bytes: usize,
    is_last: bool,
}

impl Batch {
    async fn collect<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) -> Result<Self, FileError>
    where
        FileError: From<E>,
    {
        let mut batch = Self::default();
        while batch.bytes < BATCH && batch.parts.len() < MAX_PARTS {
            match chunks.next().await {
                Some(part) => {
                    let part = part?;
                    batch.bytes += part.len();
                    if !part.is_empty() {
                        batch.parts.push(part);
                    }
                }
                None => {
                    batch.is_last = true;
                    break;
                }
            }
        }
        Ok(batch)
    }

    fn write_to(&self, file: &mut File) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes `target`'s content what `chunks` yields, and its notes `notes`.
pub async fn store<E>(
    guest: &Arc<Guest>,
    target: Target,
    notes: &Notes,
    mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<(), FileError>
where
    FileError: From<E>,
{
    let mut batch = Batch::collect(&mut chunks).await?;
    let path = Arc::new(target.path);
    let (account, as_user) = (target.account, target.as_user);
    let mut file = {
        let (guest, path, account) = (guest.clone(), path.clone(), account.clone());
        crate::blocking(move || rights::with(as_user.then_some(&account), || create(&guest, &path, &account, as_user)))
            .await?
    };
    loop {
        let is_last = batch.is_last;
        let path_of_task = path.clone();
        let writing = tokio::task::spawn_blocking(move || match batch.write_to(&mut file) {
            Ok(()) => Ok(file),
            Err(error) => Err(FileError::io("writing", &path_of_task, &error)),
        });
        // While this piece is written the next one arrives.
        let next = if is_last { Ok(Batch::default()) } else { Batch::collect(&mut chunks).await };
        file = writing.await.map_err(io::Error::other)??;
        batch = next?;
        if is_last {
            break;
        }
    }
    crate::memory::give_back_soon();
    let notes = notes.clone();
    crate::blocking(move || {
        rights::with(as_user.then_some(&account), || {
            metadata::replace(Path::new(path.as_str()), &notes)
                .map_err(|error| FileError::io("keeping metadata of", &path, &error))
        })
    })
    .await
}

fn create(guest: &Guest, path: &str, account: &Account, as_user: bool) -> Result<File, FileError> {
    if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
        ensure_directory(parent, account)?;
        // A recursive watcher shall see what happens in a directory that was made only just now.
        guest.watches.catch_up();
    }
    // Without blocking, so that a named pipe that nobody reads is refused and not waited for.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| FileError::io("opening", path, &error))?;
    if !as_user {
        fchown(&file, Some(account.uid), Some(account.gid))
            .map_err(|error| FileError::io("changing the owner of", path, &error))?;
    }
    // What a user makes is theirs already, and what they may write to may be another's.
    Ok(file)
}
