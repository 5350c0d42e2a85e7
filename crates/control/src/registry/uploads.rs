//! Blobs as they come: begun, received in one part or several, finished under a digest that was checked; and read again.
//!
//! A part goes through a file of this server into the object store, hashed on the way, and counts only when the upload's row
//! names it: what broke off before that leaves the upload as it was. So any replica can take the next part.

use atoll_model::TeamId;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{MAX_BLOB, MAX_BLOBS, MAX_PARTS, MAX_TEAM, MAX_UPLOADS, Registry, RegistryError, UPLOAD_LEFT, store};
use crate::db::Text;
use crate::objects::ObjectError;

/// What is being uploaded.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Upload {
    pub id: String,
    pub team_id: Text<TeamId>,
    pub(super) parts: String,
    pub size_bytes: i64,
    /// Of all that came, as long as it came as one part.
    pub(super) digest: Option<String>,
}

/// What was uploaded.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Blob {
    pub digest: String,
    pub(super) parts: String,
    pub size_bytes: i64,
}

/// Names of objects.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

fn name_of(hasher: Sha256) -> String {
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

impl Registry {
    /// Begins an upload.
    pub async fn begin(&self, team: &TeamId) -> Result<Upload, RegistryError> {
        let upload = Upload {
            id: hex::encode(rand::random::<[u8; 16]>()),
            team_id: Text(team.clone()),
            parts: String::new(),
            size_bytes: 0,
            digest: None,
        };
        let mut tx = self.db.begin().await?;
        store::hold_team(&mut tx, team).await?;
        let now = self.clock.now();
        let mut left = None;
        if store::count_uploads(&mut tx, team).await? >= MAX_UPLOADS {
            // Its client went away without a word.
            left = store::idle_upload(&mut tx, team, now - UPLOAD_LEFT).await?;
            let ended = match &left {
                Some(left) => store::take_upload(&mut tx, left).await?,
                None => false,
            };
            if !ended {
                return Err(RegistryError::TooMany { what: "uploads under way", limit: MAX_UPLOADS });
            }
        }
        store::insert_upload(&mut tx, &upload, now).await?;
        tx.commit().await?;
        if let Some(left) = left {
            self.delete_parts(&left.parts).await?;
        }
        Ok(upload)
    }

    pub async fn upload(&self, team: &TeamId, id: &str) -> Result<Upload, RegistryError> {
        store::upload(&self.db, team, id).await?.ok_or(RegistryError::NoUpload)
    }

    /// Takes what comes as the next part; nothing that comes makes none. `from` is where the client says that it begins.
    pub async fn receive<E>(
        &self,
        upload: Upload,
        from: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Upload, RegistryError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let team = &upload.team_id.0;
        let _place = self.receiving.take(team, 1).map_err(|_| RegistryError::Busy)?;
        let before = u64::try_from(upload.size_bytes).unwrap_or(0);
        if from.is_some_and(|from| from != before) {
            return Err(RegistryError::OutOfOrder { size: before });
        }
        let used = store::used(&self.db, team).await?;
        let draft = self.objects.temporary()?;
        let mut coming = self.spool.begin(team, used, self.objects.folder());
        let mut file = tokio::fs::File::from_std(draft.reopen()?);
        let (mut hasher, mut length) = (Sha256::new(), 0_u64);
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| RegistryError::BrokeOff(error.into()))?;
            length += chunk.len() as u64;
            if length > MAX_BLOB.saturating_sub(before) {
                return Err(RegistryError::TooLarge);
            }
            coming.grow(length)?;
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        if length == 0 {
            return Ok(upload);
        }
        let count = parts(&upload.parts).count();
        if count >= MAX_PARTS {
            return Err(RegistryError::TooLarge);
        }
        let part = format!("{}-{count}-{}", upload.id, hex::encode(rand::random::<[u8; 4]>()));
        self.objects.keep_part(draft, &part).await?;
        crate::failpoint!("control::registry::after_part");
        let all = if count == 0 { part.clone() } else { format!("{},{part}", upload.parts) };
        let after = Upload {
            parts: all,
            size_bytes: i64::try_from(before + length).unwrap_or(i64::MAX),
            digest: (count == 0).then(|| name_of(hasher)),
            ..upload.clone()
        };
        let noted = self.note_part(&upload, &after).await;
        // Of what the database didn't answer nobody knows whether it was written: the sweep does.
        if noted.as_ref().is_err_and(|error| !matches!(error, RegistryError::Db(_))) {
            self.objects.delete_part(&part).await?;
        }
        noted.map(|()| after)
    }

    async fn note_part(&self, before: &Upload, after: &Upload) -> Result<(), RegistryError> {
        let team = &before.team_id.0;
        let mut tx = self.db.begin().await?;
        store::hold_team(&mut tx, team).await?;
        let more = u64::try_from(after.size_bytes - before.size_bytes).unwrap_or(0);
        if store::used_in(&mut tx, team).await?.saturating_add(more) > MAX_TEAM {
            return Err(RegistryError::TeamIsFull);
        }
        if !store::add_part(&mut tx, before, after, self.clock.now()).await? {
            // Another part came at the same time.
            drop(tx);
            let now = self.upload(team, &before.id).await?;
            return Err(RegistryError::OutOfOrder { size: u64::try_from(now.size_bytes).unwrap_or(0) });
        }
        Ok(tx.commit().await?)
    }

    /// Makes a blob of it, if it has this digest; else it is over.
    pub async fn finish(&self, upload: &Upload, digest: &str) -> Result<(), RegistryError> {
        let found = match &upload.digest {
            Some(digest) => digest.clone(),
            None => {
                let _place = self.receiving.take(&upload.team_id, 1).map_err(|_| RegistryError::Busy)?;
                self.digest_of(&upload.parts).await?
            }
        };
        if found != digest {
            self.cancel(upload).await?;
            return Err(RegistryError::WrongDigest { found });
        }
        let blob = Blob { digest: found, parts: upload.parts.clone(), size_bytes: upload.size_bytes };
        let mut tx = self.db.begin().await?;
        store::hold_team(&mut tx, &upload.team_id).await?;
        if !store::take_upload(&mut tx, upload).await? {
            return Err(RegistryError::NoUpload);
        }
        let is_new = store::insert_blob(&mut tx, &upload.team_id, &blob, self.clock.now()).await?;
        if is_new && store::count_blobs(&mut tx, &upload.team_id).await? > MAX_BLOBS {
            return Err(RegistryError::TooMany { what: "blobs", limit: MAX_BLOBS });
        }
        tx.commit().await?;
        crate::failpoint!("control::registry::after_blob");
        if !is_new {
            self.delete_parts(&upload.parts).await?;
        }
        Ok(())
    }

    async fn digest_of(&self, parts: &str) -> Result<String, RegistryError> {
        let (mut content, mut hasher) = (self.content(parts), Sha256::new());
        while let Some(chunk) = content.try_next().await? {
            hasher.update(&chunk);
        }
        Ok(name_of(hasher))
    }

    /// Ends an upload that its client wants no more.
    pub async fn cancel(&self, upload: &Upload) -> Result<(), RegistryError> {
        let mut tx = self.db.begin().await?;
        let taken = store::take_upload(&mut tx, upload).await?;
        tx.commit().await?;
        if taken { self.delete_parts(&upload.parts).await } else { Err(RegistryError::NoUpload) }
    }

    pub(super) async fn delete_parts(&self, text: &str) -> Result<(), RegistryError> {
        for part in parts(text) {
            self.objects.delete_part(part).await?;
        }
        Ok(())
    }

    /// A blob of the team's. Whoever asks for one will name it soon: it stays for a day.
    pub async fn blob(&self, team: &TeamId, digest: &str) -> Result<Blob, RegistryError> {
        store::use_blob(&self.db, team, digest, self.clock.now()).await?.ok_or(RegistryError::NoBlob)
    }

    /// What is in it, from its beginning.
    pub fn read(&self, blob: &Blob) -> BoxStream<'static, Result<Bytes, RegistryError>> {
        self.content(&blob.parts)
    }

    fn content(&self, text: &str) -> BoxStream<'static, Result<Bytes, RegistryError>> {
        let (objects, names) = (self.objects.clone(), parts(text).map(str::to_owned).collect::<Vec<_>>());
        let opened = stream::iter(names).then(move |name| {
            let objects = objects.clone();
            async move {
                let content = objects.part(&name).await?;
                let missing = || ObjectError::other("reading a blob", format!("its part {name} is not there"));
                let content = content.ok_or_else(missing)?;
                Ok::<_, RegistryError>(content.stream.map_err(RegistryError::from))
            }
        });
        opened.try_flatten().boxed()
    }
}
