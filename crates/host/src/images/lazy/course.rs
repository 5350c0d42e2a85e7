//! The course of an image that is mounted before all of it is there: begun with its metadata, filled, and in the end a file
//! like any other, or given up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use atoll_image::packed::Index;
use atoll_image::{Pieces, read_metadata};
use tokio::sync::watch;

use super::filling::{Filling, Problem};
use super::link::Link;
use super::{Circumstances, FetchError, ImageError, Inner, Under, comes_lazily, io_error, lock, lost, remove};
use crate::failpoint;

impl Inner {
    pub(super) async fn begin(self: &Arc<Self>, digest: &str) -> Result<Option<PathBuf>, ImageError> {
        if !self.kernel_asks {
            return Ok(None);
        }
        let index = match self.supply.source.index(digest).await {
            Ok(Some(index)) => index,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, "an image comes whole: what it consists of is not known");
                return Ok(None);
            }
        };
        let bytes = index.image_bytes();
        let circumstances = Circumstances { kernel_asks: self.kernel_asks, bytes, least: self.options.lazy_from_bytes };
        if !comes_lazily(circumstances) || bytes > self.options.max_image_bytes {
            return Ok(None);
        }
        let path = self.file_of(digest);
        let making = self.make(digest, &index).map_err(io_error("making", &path));
        let begun = match making {
            Ok(file) => self.begin_with(Filling::new(digest, index, file, path, true)).await,
            Err(error) => Err(error),
        };
        if !matches!(begun, Ok(Some(_))) {
            self.remove_files(digest).map_err(io_error("removing files of an image from", &self.here))?;
            self.end_if_idle().await;
        }
        begun
    }

    /// Its index, then the file with room for all of it.
    fn make(&self, digest: &str, index: &Index) -> io::Result<File> {
        let bytes = index.image_bytes();
        let disk = rustix::fs::statvfs(&self.here)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(self.options.reserve) {
            let full = format!("less than {} bytes would be left on the disk", self.options.reserve);
            return Err(io::Error::new(io::ErrorKind::StorageFull, full));
        }
        let mut draft = tempfile::NamedTempFile::new_in(&self.here)?;
        io::Write::write_all(&mut draft, &index.encode())?;
        draft.persist(self.index_of(digest)).map_err(|error| error.error)?;
        let path = self.file_of(digest);
        // One that is whole may still have its name here.
        remove(&path)?;
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
            made => made?,
        }
        Ok(file)
    }

    async fn begin_with(self: &Arc<Self>, filling: Filling) -> Result<Option<PathBuf>, ImageError> {
        let filling = Arc::new(filling);
        if !self.bring_metadata(&filling).await? {
            return Ok(None);
        }
        failpoint!("agent.lazy.before_keep", Err(ImageError::Lost));
        let path = filling.path.clone();
        self.go_on_with(filling).await.map_err(io_error("having the kernel ask about", &path))?;
        Ok(Some(path))
    }

    /// All that the kernel reads without asking. False when the image is of a kind of which that is not known.
    async fn bring_metadata(self: &Arc<Self>, filling: &Arc<Filling>) -> Result<bool, ImageError> {
        let (size, digest) = (filling.index.image_bytes(), filling.digest.clone());
        let (inner, bringing) = (Arc::clone(self), Arc::clone(filling));
        let reading =
            tokio::task::spawn_blocking(move || read_metadata(&mut Brought { inner, filling: bringing }, size));
        match reading.await.map_err(|_| ImageError::Lost)? {
            Ok(known) => Ok(known),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(image = digest, %error, "an image comes whole: its metadata makes no sense");
                Ok(false)
            }
            Err(error) => Err(FetchError { digest, reason: error.to_string(), not_found: false }.into()),
        }
    }

    /// Has the kernel ask; starts a holder when there is none.
    pub(super) async fn keep(&self, filling: &Filling) -> io::Result<()> {
        let mut link = self.link.lock().await;
        if link.is_none() {
            *link = Some(Link::start(&self.program, &self.home, None, &self.told)?);
        }
        match link.as_ref() {
            Some(link) => link.keep(&filling.digest, &filling.file).await,
            None => Ok(()),
        }
    }

    /// Has the kernel ask, and brings the rest behind.
    pub(super) async fn go_on_with(self: &Arc<Self>, filling: Arc<Filling>) -> io::Result<()> {
        let (finished, over) = watch::channel(false);
        // Before it is held: the holder ends when nothing is under way.
        lock(&self.fillings).insert(filling.digest.clone(), Under { filling: Arc::clone(&filling), over });
        if let Err(error) = self.keep(&filling).await {
            lock(&self.fillings).remove(&filling.digest);
            return Err(error);
        }
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let whole = filling.fill(&inner.supply).await;
            if whole && let Err(error) = inner.finish(&filling).await {
                tracing::error!(image = filling.digest, %error, "an image in use is given up, although all of it came");
                filling.give_up();
            }
            finished.send_replace(true);
            inner.grown.notify_one();
        });
        Ok(())
    }

    /// All is there: when it is what was wanted, the file is one like any other.
    async fn finish(self: &Arc<Self>, filling: &Arc<Filling>) -> io::Result<()> {
        let digest = &filling.digest;
        let settling = Arc::clone(filling);
        let found = tokio::task::spawn_blocking(move || settling.settle()).await.map_err(lost)??;
        if found != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("its digest is {found}")));
        }
        let turn = self.turn(digest);
        let held = turn.lock().await;
        let finished = async {
            // Given up meanwhile.
            if self.under(digest).is_none_or(|under| !Arc::ptr_eq(&under.filling, filling)) {
                return Ok(());
            }
            self.let_go(digest, true).await?;
            failpoint!("agent.lazy.before_link", Err(io::Error::other("a failpoint")));
            // Who has the file open, or will by this name, goes on with it: the name stays until the image goes.
            match fs::hard_link(&filling.path, self.fetched.join(format!("{digest}.erofs"))) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            File::open(&self.fetched)?.sync_all()?;
            failpoint!("agent.lazy.after_link", Err(io::Error::other("a failpoint")));
            remove(&self.index_of(digest))?;
            lock(&self.fillings).remove(digest);
            tracing::info!(image = digest, "an image in use is whole");
            self.end_if_idle().await;
            Ok(())
        };
        let finished = finished.await;
        drop(held);
        self.end_turn(digest, turn);
        finished
    }

    pub(super) async fn let_go(&self, digest: &str, whole: bool) -> io::Result<()> {
        match self.link.lock().await.as_ref() {
            Some(link) => link.let_go(digest, whole).await,
            None => Ok(()),
        }
    }

    pub(super) async fn discard(&self, digest: &str) -> io::Result<()> {
        if let Some(under) = self.under(digest) {
            under.filling.give_up();
            if let Err(error) = self.let_go(digest, false).await {
                tracing::warn!(image = digest, %error, "an image that was given up is held still");
            }
            lock(&self.fillings).remove(digest);
        }
        self.remove_files(digest)?;
        self.end_if_idle().await;
        Ok(())
    }

    /// The index last: without it a file here is a further name of a whole image.
    pub(super) fn remove_files(&self, digest: &str) -> io::Result<()> {
        remove(&self.file_of(digest))?;
        remove(&self.index_of(digest))
    }

    /// With nothing under way there is nothing to hold.
    pub(super) async fn end_if_idle(&self) {
        let mut link = self.link.lock().await;
        if lock(&self.fillings).is_empty()
            && let Some(link) = link.take()
        {
            link.end(&self.home);
        }
    }
}

/// An image's pieces, brought before they are read.
struct Brought {
    inner: Arc<Inner>,
    filling: Arc<Filling>,
}

impl Pieces for Brought {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let chunks = self.filling.index.holding(offset, into.len() as u64);
        self.inner.runtime.block_on(self.filling.need(chunks, &self.inner.supply)).map_err(|error| match error {
            Problem::Chunk(_, error) => error,
            error => lost(error),
        })?;
        self.filling.file.read_exact_at(into, offset)
    }

    fn all_from(&mut self, offset: u64) {
        let chunks = self.filling.index.holding(offset, u64::MAX);
        let middle = chunks.start + chunks.len() / 2;
        for part in [chunks.start..middle, middle..chunks.end] {
            let (inner, filling) = (Arc::clone(&self.inner), Arc::clone(&self.filling));
            // Whoever reads it is told when that fails.
            self.inner.runtime.spawn(async move { filling.need(part, &inner.supply).await });
        }
    }
}
