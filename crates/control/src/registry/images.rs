//! Manifests and tags. A manifest is kept only while the team has all that it names; the database sees to that.

use atoll_model::TeamId;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use super::{MAX_MANIFESTS, MAX_MANIFESTS_BYTES, MAX_TAGS, Registry, RegistryError, store};
use crate::audit::{self, Entry, Owner};
use crate::db::{DbError, Millis};
use crate::oci::is_digest;

/// A manifest of the team's.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Stored {
    pub digest: String,
    pub media_type: String,
    pub content: String,
}

impl Registry {
    /// Keeps a manifest, under a tag if `reference` is one; a digest must be its own. Answers its digest.
    pub async fn put_manifest(
        &self,
        owner: &Owner,
        repository: &str,
        reference: &str,
        new: &Manifest,
    ) -> Result<String, RegistryError> {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&new.content)));
        if is_digest(reference) && reference != digest {
            return Err(RegistryError::WrongDigest { found: digest });
        }
        let (team, now) = (&owner.team, self.clock.now());
        let at = (team, repository, digest.as_str());
        let mut tx = self.db.begin().await?;
        store::hold_team(&mut tx, team).await?;
        store::insert_manifest(&mut tx, at, new, now).await?;
        let (manifests, bytes) = store::count_manifests(&mut tx, team).await?;
        if manifests > MAX_MANIFESTS {
            return Err(RegistryError::TooMany { what: "manifests", limit: MAX_MANIFESTS });
        }
        if bytes > MAX_MANIFESTS_BYTES {
            return Err(RegistryError::TooMany { what: "bytes of manifests", limit: MAX_MANIFESTS_BYTES });
        }
        let unpushed = |named: &str| {
            let named = named.to_owned();
            move |error: DbError| {
                if error.is_foreign_key_violation() { RegistryError::Unpushed(named) } else { error.into() }
            }
        };
        for blob in &new.blobs {
            store::name(&mut tx, at, blob, true).await.map_err(unpushed(blob))?;
        }
        for manifest in &new.manifests {
            store::name(&mut tx, at, manifest, false).await.map_err(unpushed(manifest))?;
        }
        if !is_digest(reference) {
            store::set_tag(&mut tx, (team, repository, reference), &digest).await?;
            if store::count_tags(&mut tx, team).await? > MAX_TAGS {
                return Err(RegistryError::TooMany { what: "tags of images", limit: MAX_TAGS });
            }
            let details = json!({ "repository": repository, "tag": reference });
            audit::record(&mut tx, now, &entry(owner, "image.push", &digest, details)).await?;
        }
        tx.commit().await?;
        Ok(digest)
    }

    /// A manifest by tag or digest.
    pub async fn manifest(&self, team: &TeamId, repository: &str, reference: &str) -> Result<Stored, RegistryError> {
        let found = store::use_manifest(&self.db, (team, repository, reference), self.clock.now()).await?;
        found.ok_or(RegistryError::NoManifest)
    }

    /// A repository's tags, in the order of their bytes.
    pub async fn tags(&self, team: &TeamId, repository: &str) -> Result<Vec<String>, RegistryError> {
        store::tags(&self.db, team, repository).await?.ok_or(RegistryError::NoManifest)
    }

    /// Takes a tag away, or a manifest with all its tags. One that is on a list stays for as long as the list.
    pub async fn delete_manifest(&self, owner: &Owner, repository: &str, reference: &str) -> Result<(), RegistryError> {
        let at = (&owner.team, repository, reference);
        let mut tx = self.db.begin().await?;
        store::hold_team(&mut tx, &owner.team).await?;
        let untagged = store::remove_tags(&mut tx, at).await? > 0;
        let gone = is_digest(reference) && store::remove_manifest(&mut tx, at, Millis(i64::MAX)).await?;
        if !untagged && !gone {
            let listed = is_digest(reference) && store::has_manifest(&mut tx, at).await?;
            return Err(if listed { RegistryError::OnAList } else { RegistryError::NoManifest });
        }
        let details = json!({ "repository": repository });
        audit::record(&mut tx, self.clock.now(), &entry(owner, "image.delete", reference, details)).await?;
        Ok(tx.commit().await?)
    }
}

fn entry<'a>(owner: &'a Owner, action: &'static str, target: &'a str, details: serde_json::Value) -> Entry<'a> {
    Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "image",
        target_id: Some(target),
        result: "ok",
        details,
    }
}
