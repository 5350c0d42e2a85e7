//! SQL of layers and of who stands on them.

use std::collections::BTreeSet;

use atoll_model::{HostId, LayerId, TeamId};

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LayerRow {
    pub id: Text<LayerId>,
    pub team_id: Text<TeamId>,
    pub host_id: Option<Text<HostId>>,
    /// Made on a machine of the team's own.
    pub byoc: bool,
    /// Of its image, once it was packed.
    pub digest: Option<String>,
    /// The image is in the object store.
    pub stored: bool,
    pub size_bytes: i64,
    /// Memory is kept with it.
    pub memory: bool,
    /// It is the disk of a machine, made where machines run on this: memory goes on where they run on the same.
    pub vm_version: Option<String>,
    /// It was not stored, and its host was deleted.
    pub lost: bool,
    /// How often it could not be stored.
    pub attempts: i64,
    /// Why it could not be.
    pub problem: Option<String>,
    pub created_at: Millis,
}

macro_rules! columns {
    () => {
        "l.id, l.team_id, l.host_id, l.byoc, l.digest, l.stored, l.size_bytes, l.memory, l.vm_version, l.lost, l.attempts, l.problem, \
         l.created_at"
    };
}

/// The position of all of a holder's layers in one.
const SQUASHED: i64 = -1;

pub async fn insert(tx: &mut Tx, new: &LayerRow) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO layers (id, team_id, host_id, byoc, digest, stored, size_bytes, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
    )
    .bind(new.id.as_str())
    .bind(new.team_id.as_str())
    .bind(new.host_id.as_ref().map(|host| host.as_str()))
    .bind(new.byoc)
    .bind(&new.digest)
    .bind(new.stored)
    .bind(new.size_bytes)
    .bind(new.created_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a layer")
}

/// What its host has said of it.
pub async fn set_made(db: &Db, layer: &LayerRow) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE layers SET size_bytes = $2, memory = $3, vm_version = $4 WHERE id = $1")
        .bind(layer.id.as_str())
        .bind(layer.size_bytes)
        .bind(layer.memory)
        .bind(&layer.vm_version)
        .execute(c)
        .await
        .map(|_| ()))
    .during("note what a layer is")
}

/// What its host has packed it as. Whether the layer is still there. Notes to delete an image of this content, which an
/// earlier layer had, count no more.
pub async fn set_digest(db: &Db, id: &LayerId, digest: &str, size_bytes: i64) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    let there = on!(tx &mut tx, |c| sqlx::query("UPDATE layers SET digest = $2, size_bytes = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(digest)
        .bind(size_bytes)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("note a layer's digest")?;
    if there {
        withdraw_deletions(&mut tx, digest).await?;
    }
    tx.commit().await?;
    Ok(there)
}

async fn withdraw_deletions(tx: &mut Tx, digest: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM pending_deletions WHERE digest = $1").bind(digest).execute(c).await.map(|_| ()))
        .during("withdraw an image's deletion")
}

pub async fn set_stored(db: &Db, id: &LayerId) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE layers SET stored = TRUE, lost = FALSE, problem = NULL WHERE id = $1")
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("note that a layer is stored")
}

/// It could not be stored, and is tried again at `again`.
pub async fn set_problem(db: &Db, id: &LayerId, problem: &str, again: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE layers SET attempts = attempts + 1, try_at = $3, problem = $2 WHERE id = $1 AND NOT stored"
    )
    .bind(id.as_str())
    .bind(problem)
    .bind(again)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note why a layer is not stored")
}

/// Its host doesn't have the image that it once packed: it is packed again.
pub async fn forget_digest(db: &Db, id: &LayerId) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE layers SET digest = NULL WHERE id = $1 AND NOT stored")
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("forget a layer's image")
}

/// A host is deleted, in its transaction: what was stored nowhere else is lost.
pub async fn lose_host(tx: &mut Tx, host: &HostId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE layers SET lost = TRUE WHERE host_id = $1 AND NOT stored")
        .bind(host.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("mark what is lost with a host")
}

/// `holder` stands on these from now on, topmost first, and on nothing else.
pub async fn refer(tx: &mut Tx, holder: &str, layers: &[LayerRow]) -> Result<(), DbError> {
    release(tx, holder).await?;
    stand(tx, holder, layers).await
}

/// A new `holder` stands on these, topmost first.
pub async fn stand(tx: &mut Tx, holder: &str, layers: &[LayerRow]) -> Result<(), DbError> {
    for (position, layer) in layers.iter().enumerate() {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        put(tx, holder, position, &layer.id.0).await?;
    }
    Ok(())
}

/// `holder`'s layers are also had as this one, if they are still `these`. Whether they are: it may have been built anew or
/// be gone. Nobody changes that until the end of `tx`.
pub async fn refer_squashed(tx: &mut Tx, holder: &str, these: &[LayerId], layer: &LayerId) -> Result<bool, DbError> {
    // Whoever lets go of them waits for this one, and then takes what it wrote along ([`release`]).
    if let Tx::Postgres(c) = tx {
        sqlx::query("SELECT layer_id FROM layer_refs WHERE holder = $1 AND position = 0 FOR UPDATE")
            .bind(holder)
            .execute(&mut **c)
            .await
            .during("hold a holder's layers")?;
    }
    let now: Vec<(Text<LayerId>,)> = on!(tx tx, |c| sqlx::query_as(
        "SELECT layer_id FROM layer_refs WHERE holder = $1 AND position <> $2 ORDER BY position"
    )
    .bind(holder)
    .bind(SQUASHED)
    .fetch_all(c)
    .await)
    .during("read a holder's own layers")?;
    if these.is_empty() || !now.iter().map(|(id,)| &id.0).eq(these) {
        return Ok(false);
    }
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO layer_refs (holder, position, layer_id) VALUES ($1, $2, $3)
         ON CONFLICT (holder, position) DO UPDATE SET layer_id = excluded.layer_id"
    )
    .bind(holder)
    .bind(SQUASHED)
    .bind(layer.as_str())
    .execute(c)
    .await
    .map(|_| ()))
    .during("note that layers are had in one")?;
    Ok(true)
}

async fn put(tx: &mut Tx, holder: &str, position: i64, layer: &LayerId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("INSERT INTO layer_refs (holder, position, layer_id) VALUES ($1, $2, $3)")
        .bind(holder)
        .bind(position)
        .bind(layer.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("note who stands on a layer")
}

/// `holder` stands on nothing any more.
pub async fn release(tx: &mut Tx, holder: &str) -> Result<(), DbError> {
    // Twice, for the first may have waited for one who wrote that they are had in one.
    for sql in
        ["DELETE FROM layer_refs WHERE holder = $1", "DELETE FROM layer_refs WHERE holder = $1 AND position = -1"]
    {
        on!(tx tx, |c| sqlx::query(sql).bind(holder).execute(c).await.map(|_| ()))
            .during("release a holder's layers")?;
    }
    Ok(())
}

/// Holders that are gone stand on nothing, also where all of their layers were written down as one at that moment.
pub async fn release_gone(db: &Db) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM layer_refs WHERE position = -1
         AND NOT EXISTS (SELECT 1 FROM layer_refs o WHERE o.holder = layer_refs.holder AND o.position <> -1)"
    )
    .execute(c)
    .await
    .map(|_| ()))
    .during("release what holders that are gone stood on")
}

/// What somebody who comes next stands on, topmost first.
pub async fn chain(db: &Db, holder: &str) -> Result<Vec<LayerRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM layer_refs r JOIN layers l ON l.id = r.layer_id WHERE r.holder = $1 AND (r.position = $2 OR NOT EXISTS
         (SELECT 1 FROM layer_refs s WHERE s.holder = $1 AND s.position = $2)) ORDER BY r.position"
    ))
    .bind(holder)
    .bind(SQUASHED)
    .fetch_all(c)
    .await)
    .during("read a holder's layers")
}

/// What `holder` itself stands on, topmost first.
pub async fn own(db: &Db, holder: &str) -> Result<Vec<LayerRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM layer_refs r JOIN layers l ON l.id = r.layer_id WHERE r.holder = $1 AND r.position <> $2 ORDER BY r.position"
    ))
    .bind(holder)
    .bind(SQUASHED)
    .fetch_all(c)
    .await)
    .during("read a holder's own layers")
}

/// Layers of snapshots and templates that are not in the object store and due to be tried, those that failed least
/// often first, then the oldest; of each host so many.
pub async fn unstored(db: &Db, now: Millis, of_a_host: i64, limit: i64) -> Result<Vec<LayerRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM (SELECT d.*, ROW_NUMBER() OVER (PARTITION BY d.host_id ORDER BY d.attempts, d.created_at, d.id) AS nth
         FROM layers d WHERE NOT d.stored AND NOT d.lost AND d.host_id IS NOT NULL AND d.try_at <= $1 AND EXISTS
         (SELECT 1 FROM layer_refs r WHERE r.layer_id = d.id AND (r.holder LIKE 'tpl-%' OR r.holder LIKE 'bld-%'))
         AND EXISTS (SELECT 1 FROM hosts h WHERE h.id = d.host_id AND h.status = 'online')) l
         WHERE l.nth <= $2 ORDER BY l.attempts, l.created_at, l.id LIMIT $3"
    ))
    .bind(now)
    .bind(of_a_host)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for layers to store")
}

/// Layers that nobody stands on, made before `before`.
pub async fn unused(db: &Db, before: Millis, limit: i64) -> Result<Vec<LayerRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM layers l WHERE l.created_at < $1 AND NOT EXISTS (SELECT 1 FROM layer_refs r WHERE r.layer_id = l.id)
         ORDER BY l.created_at LIMIT $2"
    ))
    .bind(before)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for layers that nobody uses")
}

/// Deletes the row if nobody stands on it. Whether it did.
pub async fn delete_unused(tx: &mut Tx, id: &LayerId) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM layers WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM layer_refs r WHERE r.layer_id = layers.id)"
    )
    .bind(id.as_str())
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("delete a layer")
}

/// Whether a row names the image: a layer, a template, or a sandbox that lives.
pub async fn is_named(tx: &mut Tx, digest: &str) -> Result<bool, DbError> {
    let found: Option<(i64,)> = on!(tx tx, |c| sqlx::query_as(
        "SELECT CAST(1 AS BIGINT) WHERE EXISTS (SELECT 1 FROM layers WHERE digest = $1)
         OR EXISTS (SELECT 1 FROM templates WHERE digest = $1)
         OR EXISTS (SELECT 1 FROM template_builds WHERE digest = $1)
         OR EXISTS (SELECT 1 FROM pulled_images WHERE digest = $1)
         OR EXISTS (SELECT 1 FROM sandboxes WHERE digest = $1 AND status <> 'stopped')"
    )
    .bind(digest)
    .fetch_optional(c)
    .await)
    .during("look for who names an image")?;
    Ok(found.is_some())
}

/// All images that a row names.
pub async fn named(db: &Db) -> Result<BTreeSet<String>, DbError> {
    let rows: Vec<(String,)> = on!(read db, |c| sqlx::query_as(
        "SELECT digest FROM layers WHERE digest IS NOT NULL UNION SELECT digest FROM templates
         UNION SELECT digest FROM template_builds WHERE digest IS NOT NULL UNION SELECT digest FROM pulled_images
         UNION SELECT digest FROM sandboxes WHERE status <> 'stopped'"
    )
    .fetch_all(c)
    .await)
    .during("list the images that are named")?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// Until the end of `tx` no row is written that names an image. (SQLite has one writer at a time, and `tx` is it.)
pub async fn hold_names(tx: &mut Tx) -> Result<(), DbError> {
    let Tx::Postgres(c) = tx else { return Ok(()) };
    sqlx::query("LOCK TABLE pulled_images, template_builds, templates, layers IN SHARE MODE")
        .execute(&mut **c)
        .await
        .map(|_| ())
        .during("hold the names of images")
}

/// Pulled images that were not used since `before` and that no template stands on: manifest and digest.
pub async fn unused_pulled(db: &Db, before: Millis, limit: i64) -> Result<Vec<(String, String)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT manifest, digest FROM pulled_images p WHERE used_at < $1
         AND NOT EXISTS (SELECT 1 FROM templates t WHERE t.digest = p.digest) ORDER BY used_at LIMIT $2"
    )
    .bind(before)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for pulled images that nobody uses")
}

/// Deletes the row if it is still as old. Whether it did.
pub async fn delete_pulled(tx: &mut Tx, manifest: &str, before: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM pulled_images WHERE manifest = $1 AND used_at < $2")
        .bind(manifest)
        .bind(before)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("forget a pulled image")
}

/// One host is to delete this, when it can be reached.
pub async fn note_deletion(tx: &mut Tx, host: &HostId, what: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO pending_deletions (host_id, digest, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (host_id, digest) DO NOTHING"
    )
    .bind(host.as_str())
    .bind(what)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note a layer's deletion")
}

/// Notes that every host is to delete the image, in the transaction after which no row names it any more.
///
/// # Errors
/// The database's.
pub async fn note_everywhere(tx: &mut Tx, digest: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO pending_deletions (host_id, digest, created_at)
         SELECT id, $1, $2 FROM hosts WHERE status <> 'pending' ON CONFLICT (host_id, digest) DO NOTHING"
    )
    .bind(digest)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note an image's deletion")
}
