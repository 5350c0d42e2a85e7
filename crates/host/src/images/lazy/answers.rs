//! What an agent finds when it begins, and the answers to the kernel's questions from then on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use atoll_image::packed::Index;
use tokio::sync::mpsc;

use super::filling::Filling;
use super::link::{Link, Told};
use super::{Inner, check_digest, lock, remove};
use crate::images::mount;

impl Inner {
    /// Goes on with what an earlier agent of this boot has left.
    pub(super) async fn adopt(self: &Arc<Self>, mounts: &Path) -> io::Result<()> {
        let (found, mut kept) = match Link::adopt(&self.home, &self.told)? {
            Some((link, kept)) => (Some(link), kept),
            None => (None, HashMap::new()),
        };
        let had_holder = found.is_some();
        *self.link.lock().await = found;
        for entry in fs::read_dir(&self.here)? {
            let path = entry?.path();
            let (Some(name), extension) = (path.file_stem().and_then(|name| name.to_str()), path.extension()) else {
                continue;
            };
            let digest = name.to_owned();
            let is_index = extension.is_some_and(|it| it == "idx") && check_digest(&digest).is_ok();
            if !is_index {
                // A draft, or a further name of an image that is whole.
                if !self.index_of(&digest).exists() {
                    remove(&path)?;
                }
                continue;
            }
            let mounted = mount::is_mounted(&mounts.join(&digest))?;
            let file = kept.remove(&digest);
            // Not yet held when its agent died, so never mounted; or let go of, and as good as whole.
            if file.is_none() && !mounted {
                self.remove_files(&digest)?;
                continue;
            }
            if !had_holder {
                tracing::error!(
                    image = digest,
                    "nobody held an image that was in use and not whole: what was read of it since the last agent may be wrong"
                );
            }
            let index = Index::decode(&fs::read(&path)?)?;
            let path = self.file_of(&digest);
            let file = match file {
                Some(file) => file,
                None => File::options().read(true).write(true).open(&path)?,
            };
            tracing::info!(image = digest, "going on with an image that is not whole");
            let filling = Arc::new(Filling::new(&digest, index, file, path, false));
            self.go_on_with(filling).await?;
        }
        // What has no file any more, or was whole: nobody is to be asked about it.
        for digest in kept.into_keys() {
            self.let_go(&digest, self.fetched.join(format!("{digest}.erofs")).exists()).await?;
        }
        self.end_if_idle().await;
        Ok(())
    }

    /// Answers the kernel's questions.
    pub(super) async fn answer(inner: Weak<Self>, mut hears: mpsc::UnboundedReceiver<Told>) {
        while let Some(told) = hears.recv().await {
            let Some(inner) = inner.upgrade() else { return };
            match told {
                Told::Wanted { link, number, digest, offset, count } => {
                    inner.runtime.clone().spawn(inner.answer_one((link, number), digest, offset, count));
                }
                Told::Gone { link } => inner.hold_again(link).await,
            }
        }
    }

    async fn answer_one(self: Arc<Self>, (asked_by, number): (u64, u64), digest: String, offset: u64, count: u64) {
        // Whoever waits for one that is no more under way has been answered.
        let Some(under) = self.under(&digest) else { return };
        let go_on = under.filling.wanted(offset, count, &self.supply).await;
        if let Some(link) = self.link.lock().await.as_ref().filter(|link| link.number == asked_by)
            && let Err(error) = link.answer(number, go_on)
        {
            tracing::warn!(%error, "the kernel's question about an image can't be answered");
        }
    }

    /// The holder has ended, although nobody told it to: another one goes on with the same questions.
    async fn hold_again(&self, gone: u64) {
        let mut link = self.link.lock().await;
        let Some(group) = link.as_ref().filter(|link| link.number == gone).map(Link::group) else { return };
        tracing::error!(
            "the process that holds the kernel's questions about incomplete images has ended; starting another"
        );
        let again = group.and_then(|group| Link::start(&self.program, &self.home, Some(group), &self.told));
        match again {
            Ok(again) => {
                let fillings: Vec<_> = lock(&self.fillings).values().cloned().collect();
                for under in fillings {
                    if let Err(error) = again.keep(&under.filling.digest, &under.filling.file).await {
                        tracing::error!(image = under.filling.digest, %error, "an incomplete image can't be held");
                    }
                }
                *link = Some(again);
            }
            // The group is held by this process still.
            Err(error) => tracing::error!(%error, "no process can be started that holds the kernel's questions"),
        }
    }
}
