//! SQL of the registry.

use atoll_model::TeamId;

use super::manifest::Manifest;
use super::{Blob, Stored, Upload};
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

/// What adds to what the team has waits for its turn.
pub async fn hold_team(tx: &mut Tx, team: &TeamId) -> Result<(), DbError> {
    let Tx::Postgres(c) = tx else { return Ok(()) };
    sqlx::query("SELECT id FROM teams WHERE id = $1 FOR NO KEY UPDATE")
        .bind(team.as_str())
        .execute(&mut **c)
        .await
        .map(|_| ())
        .during("hold a team's images")
}

const USED: &str = "SELECT CAST(COALESCE((SELECT SUM(size_bytes) FROM registry_blobs WHERE team_id = $1), 0)
     + COALESCE((SELECT SUM(size_bytes) FROM registry_manifests WHERE team_id = $1), 0)
     + COALESCE((SELECT SUM(size_bytes) FROM registry_uploads WHERE team_id = $1), 0) AS BIGINT)";

fn bytes((sum,): (i64,)) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}

/// Bytes of all that a team has here.
pub async fn used(db: &Db, team: &TeamId) -> Result<u64, DbError> {
    let sum = on!(read db, |c| sqlx::query_as(USED).bind(team.as_str()).fetch_one(c).await);
    Ok(bytes(sum.during("add up a team's images")?))
}

/// The same with what is being added.
pub async fn used_in(tx: &mut Tx, team: &TeamId) -> Result<u64, DbError> {
    let sum = on!(tx tx, |c| sqlx::query_as(USED).bind(team.as_str()).fetch_one(c).await);
    Ok(bytes(sum.during("add up a team's images")?))
}

pub async fn count_uploads(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    count(tx, team, "SELECT COUNT(*) FROM registry_uploads WHERE team_id = $1").await
}

pub async fn count_blobs(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    count(tx, team, "SELECT COUNT(*) FROM registry_blobs WHERE team_id = $1").await
}

pub async fn count_tags(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    count(tx, team, "SELECT COUNT(*) FROM registry_tags WHERE team_id = $1").await
}

async fn count(tx: &mut Tx, team: &TeamId, sql: &'static str) -> Result<i64, DbError> {
    let found: Result<(i64,), _> = on!(tx tx, |c| sqlx::query_as(sql).bind(team.as_str()).fetch_one(c).await);
    Ok(found.during("count what a team has pushed")?.0)
}

/// The team's upload that nothing came in for since `before`, for longer than for any other.
pub async fn idle_upload(tx: &mut Tx, team: &TeamId, before: Millis) -> Result<Option<Upload>, DbError> {
    on!(tx tx, |c| sqlx::query_as(
        "SELECT id, team_id, parts, size_bytes, digest FROM registry_uploads WHERE team_id = $1 AND touched_at <= $2
         ORDER BY touched_at LIMIT 1"
    )
    .bind(team.as_str())
    .bind(before)
    .fetch_optional(c)
    .await)
    .during("look for an upload that was left")
}

pub async fn insert_upload(tx: &mut Tx, new: &Upload, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO registry_uploads (id, team_id, parts, size_bytes, touched_at) VALUES ($1, $2, '', 0, $3)"
    )
    .bind(&new.id)
    .bind(new.team_id.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("begin an upload")
}

pub async fn upload(db: &Db, team: &TeamId, id: &str) -> Result<Option<Upload>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, parts, size_bytes, digest FROM registry_uploads WHERE id = $1 AND team_id = $2"
    )
    .bind(id)
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("read an upload")
}

/// The upload has one more part, if it had these before. Whether it did.
pub async fn add_part(tx: &mut Tx, before: &Upload, after: &Upload, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE registry_uploads SET parts = $3, size_bytes = $4, digest = $5, touched_at = $6
         WHERE id = $1 AND parts = $2"
    )
    .bind(&before.id)
    .bind(&before.parts)
    .bind(&after.parts)
    .bind(after.size_bytes)
    .bind(&after.digest)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("add a part to an upload")
}

/// Ends the upload, if it still has these parts. Whether it did: its parts are the caller's then.
pub async fn take_upload(tx: &mut Tx, upload: &Upload) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM registry_uploads WHERE id = $1 AND parts = $2")
        .bind(&upload.id)
        .bind(&upload.parts)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("end an upload")
}

/// Whether the team had no such blob. One that it has is as if it were pushed now.
pub async fn insert_blob(tx: &mut Tx, team: &TeamId, new: &Blob, now: Millis) -> Result<bool, DbError> {
    let kept: Result<(String,), _> = on!(tx tx, |c| sqlx::query_as(
        "INSERT INTO registry_blobs (team_id, digest, parts, size_bytes, used_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (team_id, digest) DO UPDATE SET used_at = excluded.used_at RETURNING parts"
    )
    .bind(team.as_str())
    .bind(&new.digest)
    .bind(&new.parts)
    .bind(new.size_bytes)
    .bind(now)
    .fetch_one(c)
    .await);
    Ok(kept.during("insert a blob")?.0 == new.parts)
}

/// A blob, noting that it is used.
pub async fn use_blob(db: &Db, team: &TeamId, digest: &str, now: Millis) -> Result<Option<Blob>, DbError> {
    on!(write db, |c| sqlx::query_as(
        "UPDATE registry_blobs SET used_at = $3 WHERE team_id = $1 AND digest = $2 RETURNING digest, parts, size_bytes"
    )
    .bind(team.as_str())
    .bind(digest)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read a blob")
}

/// How many manifests a team has, and their bytes.
pub async fn count_manifests(tx: &mut Tx, team: &TeamId) -> Result<(i64, i64), DbError> {
    on!(tx tx, |c| sqlx::query_as(
        "SELECT COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM registry_manifests WHERE team_id = $1"
    )
    .bind(team.as_str())
    .fetch_one(c)
    .await)
    .during("count a team's manifests")
}

pub async fn insert_manifest(
    tx: &mut Tx,
    (team, repository, digest): (&TeamId, &str, &str),
    new: &Manifest,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO registry_manifests (team_id, repository, digest, media_type, content, size_bytes, used_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (team_id, repository, digest) DO UPDATE SET used_at = excluded.used_at"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(digest)
    .bind(&new.media_type)
    .bind(&new.content)
    .bind(i64::try_from(new.content.len()).unwrap_or(i64::MAX))
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a manifest")
}

const NAMES_BLOB: &str = "INSERT INTO registry_blob_refs (team_id, repository, manifest, blob) VALUES ($1, $2, $3, $4)
     ON CONFLICT (team_id, repository, manifest, blob) DO NOTHING";
const NAMES_MANIFEST: &str = "INSERT INTO registry_manifest_refs (team_id, repository, list, manifest)
     VALUES ($1, $2, $3, $4) ON CONFLICT (team_id, repository, list, manifest) DO NOTHING";

/// A manifest names a blob, or, as a list, another manifest. An error of a foreign key when the team has no such.
pub async fn name(
    tx: &mut Tx,
    (team, repository, manifest): (&TeamId, &str, &str),
    named: &str,
    is_blob: bool,
) -> Result<(), DbError> {
    let sql = if is_blob { NAMES_BLOB } else { NAMES_MANIFEST };
    on!(tx tx, |c| sqlx::query(sql)
        .bind(team.as_str())
        .bind(repository)
        .bind(manifest)
        .bind(named)
        .execute(c)
        .await
        .map(|_| ()))
    .during("note what a manifest names")
}

pub async fn set_tag(tx: &mut Tx, (team, repository, tag): (&TeamId, &str, &str), digest: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO registry_tags (team_id, repository, tag, manifest) VALUES ($1, $2, $3, $4)
         ON CONFLICT (team_id, repository, tag) DO UPDATE SET manifest = excluded.manifest"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(tag)
    .bind(digest)
    .execute(c)
    .await
    .map(|_| ()))
    .during("tag a manifest")
}

/// A manifest by tag or digest, noting that it is used.
pub async fn use_manifest(
    db: &Db,
    (team, repository, reference): (&TeamId, &str, &str),
    now: Millis,
) -> Result<Option<Stored>, DbError> {
    on!(write db, |c| sqlx::query_as(
        "UPDATE registry_manifests SET used_at = $4 WHERE team_id = $1 AND repository = $2 AND (digest = $3 OR digest IN
         (SELECT manifest FROM registry_tags WHERE team_id = $1 AND repository = $2 AND tag = $3))
         RETURNING digest, media_type, content"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(reference)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read a manifest")
}

/// A repository's tags, in the order of their bytes. None when there is no such repository.
pub async fn tags(db: &Db, team: &TeamId, repository: &str) -> Result<Option<Vec<String>>, DbError> {
    let rows: Vec<(String,)> = on!(read db, |c| sqlx::query_as(
        "SELECT tag FROM registry_tags WHERE team_id = $1 AND repository = $2"
    )
    .bind(team.as_str())
    .bind(repository)
    .fetch_all(c)
    .await)
    .during("list tags")?;
    if rows.is_empty() {
        let found: Option<(String,)> = on!(read db, |c| sqlx::query_as(
            "SELECT digest FROM registry_manifests WHERE team_id = $1 AND repository = $2 LIMIT 1"
        )
        .bind(team.as_str())
        .bind(repository)
        .fetch_optional(c)
        .await)
        .during("look for a repository")?;
        return Ok(found.map(|_| Vec::new()));
    }
    let mut tags: Vec<_> = rows.into_iter().map(|(tag,)| tag).collect();
    // A database may have another one.
    tags.sort_unstable();
    Ok(Some(tags))
}

/// Takes a tag away, or by a digest all tags of that. How many.
pub async fn remove_tags(tx: &mut Tx, (team, repository, reference): (&TeamId, &str, &str)) -> Result<u64, DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM registry_tags WHERE team_id = $1 AND repository = $2 AND (tag = $3 OR manifest = $3)"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(reference)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("take tags away")
}

pub async fn has_manifest(tx: &mut Tx, (team, repository, digest): (&TeamId, &str, &str)) -> Result<bool, DbError> {
    let found: Result<Option<(String,)>, _> = on!(tx tx, |c| sqlx::query_as(
        "SELECT digest FROM registry_manifests WHERE team_id = $1 AND repository = $2 AND digest = $3"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(digest)
    .fetch_optional(c)
    .await);
    Ok(found.during("look for a manifest")?.is_some())
}

/// Takes a manifest away that has no tag and is on no list. Whether it did.
pub async fn remove_manifest(
    tx: &mut Tx,
    (team, repository, digest): (&TeamId, &str, &str),
    unused_since: Millis,
) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM registry_manifests WHERE team_id = $1 AND repository = $2 AND digest = $3 AND used_at <= $4
         AND NOT EXISTS (SELECT 1 FROM registry_tags t
             WHERE t.team_id = $1 AND t.repository = $2 AND t.manifest = registry_manifests.digest)
         AND NOT EXISTS (SELECT 1 FROM registry_manifest_refs r
             WHERE r.team_id = $1 AND r.repository = $2 AND r.manifest = registry_manifests.digest)"
    )
    .bind(team.as_str())
    .bind(repository)
    .bind(digest)
    .bind(unused_since)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("take a manifest away")
}

/// Takes a blob away that no manifest names. Whether it did.
pub async fn remove_blob(tx: &mut Tx, team: &TeamId, digest: &str, unused_since: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM registry_blobs WHERE team_id = $1 AND digest = $2 AND used_at <= $3 AND NOT EXISTS
         (SELECT 1 FROM registry_blob_refs r WHERE r.team_id = $1 AND r.blob = registry_blobs.digest)"
    )
    .bind(team.as_str())
    .bind(digest)
    .bind(unused_since)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("take a blob away")
}

/// Uploads that nothing came for since then, or whose team is gone.
pub async fn old_uploads(db: &Db, before: Millis, limit: i64) -> Result<Vec<Upload>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, parts, size_bytes, digest FROM registry_uploads u WHERE touched_at <= $1
         OR NOT EXISTS (SELECT 1 FROM teams t WHERE t.id = u.team_id) ORDER BY touched_at LIMIT $2"
    )
    .bind(before)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for old uploads")
}

/// Where a manifest is, by its team, repository and digest, and whether it has a tag.
pub type Old = (Text<TeamId>, String, String, bool);

/// Manifests that nobody used: those with a tag since `tagged`, others since `loose`; and all of teams that are gone. What
/// is on a list goes after the list.
pub async fn old_manifests(db: &Db, tagged: Millis, loose: Millis, limit: i64) -> Result<Vec<Old>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT team_id, repository, digest, EXISTS (SELECT 1 FROM registry_tags t WHERE t.team_id = m.team_id
             AND t.repository = m.repository AND t.manifest = m.digest) FROM registry_manifests m
         WHERE NOT EXISTS (SELECT 1 FROM registry_manifest_refs r
             WHERE r.team_id = m.team_id AND r.repository = m.repository AND r.manifest = m.digest)
         AND (m.used_at <= $1 OR NOT EXISTS (SELECT 1 FROM teams w WHERE w.id = m.team_id)
         OR (m.used_at <= $2 AND NOT EXISTS (SELECT 1 FROM registry_tags t WHERE t.team_id = m.team_id
             AND t.repository = m.repository AND t.manifest = m.digest))) ORDER BY m.used_at LIMIT $3"
    )
    .bind(tagged)
    .bind(loose)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for manifests that nobody uses")
}

/// Blobs that no manifest names and nobody used since then.
pub async fn loose_blobs(db: &Db, before: Millis, limit: i64) -> Result<Vec<(Text<TeamId>, String, String)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT team_id, digest, parts FROM registry_blobs b WHERE used_at <= $1 AND NOT EXISTS
         (SELECT 1 FROM registry_blob_refs r WHERE r.team_id = b.team_id AND r.blob = b.digest)
         ORDER BY used_at LIMIT $2"
    )
    .bind(before)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for blobs that nobody names")
}

/// The parts of all blobs and uploads.
pub async fn all_parts(db: &Db) -> Result<Vec<(String,)>, DbError> {
    on!(read db, |c| sqlx::query_as("SELECT parts FROM registry_blobs UNION ALL SELECT parts FROM registry_uploads")
        .fetch_all(c)
        .await)
    .during("list the parts of blobs")
}
