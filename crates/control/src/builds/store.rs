//! SQL of builds. Their logs are in [`super::lines`], their tags in [`super::tags`], what these were given to before in
//! [`super::assignments`], steps in [`super::steps`].

use std::collections::BTreeMap;

use atoll_model::{BuildId, TeamId, TemplateId};
use sqlx::types::Json;

use super::recipe::Recipe;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct BuildRow {
    pub id: Text<BuildId>,
    pub template_id: Text<TemplateId>,
    pub team_id: Text<TeamId>,
    /// `waiting`, `building`, `ready`, `error` or `cancelled`.
    pub status: String,
    pub spec: Json<Recipe>,
    /// Names that it gets in its template when it is ready.
    pub tags: Json<Vec<String>>,
    /// The replica that runs it; [`NOBODY`] before it was begun.
    pub owner: String,
    pub reason: Option<String>,
    pub step: Option<String>,
    pub vcpus: Option<i64>,
    pub memory_mb: Option<i64>,
    pub disk_mb: Option<i64>,
    pub created_at: Millis,
    pub finished_at: Option<Millis>,
}

/// The owner of a build that was reserved and not begun.
pub const NOBODY: &str = "";

impl BuildRow {
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.owner == NOBODY
    }
}

/// What a build has made.
#[derive(Debug, Clone)]
pub struct Product {
    pub digest: String,
    pub size_bytes: i64,
    /// `auto`, or `vm`: its layers are the disk of a virtual machine.
    pub driver: String,
    /// Of that disk, which is as large as it is; none where a sandbox's own size counts.
    pub disk_mb: Option<i64>,
    pub default_user: String,
    pub default_workdir: String,
    pub env: BTreeMap<String, String>,
    pub start_cmd: Option<String>,
    pub ready_cmd: Option<String>,
}

macro_rules! columns {
    () => {
        "id, template_id, team_id, status, spec, tags, owner, reason, step, vcpus, memory_mb, disk_mb, created_at, \
         finished_at"
    };
}

pub async fn insert(tx: &mut Tx, new: &BuildRow, alive_at: Millis, by: Option<&str>) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO template_builds (id, template_id, team_id, status, spec, owner, created_at, cancel, vcpus,
         memory_mb, disk_mb, created_by, alive_at, tags)
         VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE, $8, $9, $10, $11, $12, $13)"
    )
    .bind(new.id.as_str())
    .bind(new.template_id.as_str())
    .bind(new.team_id.as_str())
    .bind(&new.status)
    .bind(&new.spec)
    .bind(&new.owner)
    .bind(new.created_at)
    .bind(new.vcpus)
    .bind(new.memory_mb)
    .bind(new.disk_mb)
    .bind(by)
    .bind(alive_at)
    .bind(&new.tags)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a build")
}

pub async fn get(db: &Db, team: &TeamId, template: &TemplateId, id: &BuildId) -> Result<Option<BuildRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM template_builds WHERE id = $1 AND template_id = $2 AND team_id = $3"
    ))
    .bind(id.as_str())
    .bind(template.as_str())
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("read a build")
}

/// A template's builds, oldest first, after (time, id).
pub async fn list(
    db: &Db,
    template: &TemplateId,
    after: Option<(Millis, &str)>,
    limit: i64,
) -> Result<Vec<BuildRow>, DbError> {
    let (at, id) = after.unwrap_or((Millis(i64::MIN), ""));
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM template_builds WHERE template_id = $1 AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4"
    ))
    .bind(template.as_str())
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list builds")
}

/// How many of a team's builds are under way.
pub async fn under_way(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let (count,): (i64,) = on!(tx tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM template_builds WHERE team_id = $1 AND status IN ('waiting', 'building') AND owner <> ''"
    )
    .bind(team.as_str())
    .fetch_one(c)
    .await)
    .during("count builds")?;
    Ok(count)
}

/// How many of a team's builds wait to be begun.
pub async fn reserved(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let (count,): (i64,) = on!(tx tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM template_builds WHERE team_id = $1 AND status = 'waiting' AND owner = ''"
    )
    .bind(team.as_str())
    .fetch_one(c)
    .await)
    .during("count reserved builds")?;
    Ok(count)
}

/// A reserved build is begun by a replica. False when it was before, or is over.
pub async fn begin(tx: &mut Tx, id: &BuildId, spec: &Recipe, owner: &str, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE template_builds SET spec = $2, owner = $3, alive_at = $4
         WHERE id = $1 AND status = 'waiting' AND owner = '' AND NOT cancel"
    )
    .bind(id.as_str())
    .bind(Json(spec))
    .bind(owner)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("begin a reserved build")
}

/// A template's builds, the newest first, before (time, id).
pub async fn list_newest(
    db: &Db,
    template: &TemplateId,
    before: Option<(Millis, &str)>,
    limit: usize,
) -> Result<Vec<BuildRow>, DbError> {
    let (at, id) = before.unwrap_or((Millis(i64::MAX), ""));
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM template_builds WHERE template_id = $1 AND (created_at, id) < ($2, $3)
         ORDER BY created_at DESC, id DESC LIMIT $4"
    ))
    .bind(template.as_str())
    .bind(at)
    .bind(id)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(c)
    .await)
    .during("list builds, the newest first")
}

/// The newest build of each of a team's templates.
pub async fn newest(db: &Db, team: &TeamId) -> Result<Vec<BuildRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM template_builds b WHERE b.team_id = $1 AND NOT EXISTS (SELECT 1 FROM template_builds n
         WHERE n.template_id = b.template_id AND (n.created_at, n.id) > (b.created_at, b.id))"
    ))
    .bind(team.as_str())
    .fetch_all(c)
    .await)
    .during("read the newest builds")
}

/// How many builds each of a team's templates has had.
pub async fn counts(db: &Db, team: &TeamId) -> Result<Vec<(Text<TemplateId>, i64)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT template_id, COUNT(*) FROM template_builds WHERE team_id = $1 GROUP BY template_id"
    )
    .bind(team.as_str())
    .fetch_all(c)
    .await)
    .during("count builds by template")
}

/// What a build learns when it says that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    GoOn,
    /// Somebody wants it to end.
    Cancel,
    /// It has its product.
    Ready,
    /// It was ended as one that nobody runs any more.
    Over,
}

/// A sign of life. What is being built never waits again.
pub async fn beat(db: &Db, id: &BuildId, status: &str, now: Millis) -> Result<Heard, DbError> {
    let row: Option<(bool,)> = on!(write db, |c| sqlx::query_as(
        "UPDATE template_builds SET alive_at = $3, status = CASE WHEN status = 'building' THEN status ELSE $2 END
         WHERE id = $1 AND status IN ('waiting', 'building') RETURNING cancel"
    )
    .bind(id.as_str())
    .bind(status)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("note that a build is alive")?;
    if let Some((cancel,)) = row {
        return Ok(if cancel { Heard::Cancel } else { Heard::GoOn });
    }
    let ready: Option<(String,)> =
        on!(read db, |c| sqlx::query_as("SELECT id FROM template_builds WHERE id = $1 AND status = 'ready'")
            .bind(id.as_str())
            .fetch_optional(c)
            .await)
        .during("look how a build ended")?;
    Ok(if ready.is_some() { Heard::Ready } else { Heard::Over })
}

/// Asks a build to end. Whether it was under way.
pub async fn cancel(tx: &mut Tx, id: &BuildId) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE template_builds SET cancel = TRUE WHERE id = $1 AND status IN ('waiting', 'building')"
    )
    .bind(id.as_str())
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("cancel a build")
}

/// A build ends without a product.
pub async fn fail(
    db: &Db,
    id: &BuildId,
    status: &str,
    reason: &str,
    step: Option<&str>,
    now: Millis,
) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE template_builds SET status = $2, reason = $3, step = $4, finished_at = $5
         WHERE id = $1 AND status IN ('waiting', 'building')"
    )
    .bind(id.as_str())
    .bind(status)
    .bind(reason)
    .bind(step)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("end a build")
}

/// A build ends with a product. False when it was over already.
pub async fn complete(tx: &mut Tx, id: &BuildId, product: &Product, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE template_builds SET status = 'ready', finished_at = $2, digest = $3, size_bytes = $4,
         default_user = $5, default_workdir = $6, env = $7, start_cmd = $8, ready_cmd = $9, driver = $10,
         disk_mb = COALESCE($11, disk_mb)
         WHERE id = $1 AND status = 'building' AND NOT cancel"
    )
    .bind(id.as_str())
    .bind(now)
    .bind(&product.digest)
    .bind(product.size_bytes)
    .bind(&product.default_user)
    .bind(&product.default_workdir)
    .bind(Json(&product.env))
    .bind(&product.start_cmd)
    .bind(&product.ready_cmd)
    .bind(&product.driver)
    .bind(product.disk_mb)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("complete a build")
}

/// What a template's bare name means from now on: a build that is ready.
pub async fn point_template_to(
    tx: &mut Tx,
    template: &TemplateId,
    build: &BuildId,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE templates SET digest = b.digest, size_bytes = b.size_bytes, default_user = b.default_user,
         default_workdir = b.default_workdir, env = b.env, start_cmd = b.start_cmd, ready_cmd = b.ready_cmd,
         vcpus = b.vcpus, memory_mb = b.memory_mb, disk_mb = b.disk_mb, driver = b.driver, updated_at = $3
         FROM template_builds b WHERE templates.id = $1 AND b.id = $2 AND b.status = 'ready'"
    )
    .bind(template.as_str())
    .bind(build.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("point a template to an earlier build")
}

/// What a template's bare name means from now on.
pub async fn point_template(
    tx: &mut Tx,
    template: &TemplateId,
    build: &BuildRow,
    product: &Product,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE templates SET digest = $2, size_bytes = $3, default_user = $4, default_workdir = $5, env = $6,
         start_cmd = $7, ready_cmd = $8, vcpus = $9, memory_mb = $10, disk_mb = $11, updated_at = $12, driver = $13 WHERE id = $1"
    )
    .bind(template.as_str())
    .bind(&product.digest)
    .bind(product.size_bytes)
    .bind(&product.default_user)
    .bind(&product.default_workdir)
    .bind(Json(&product.env))
    .bind(&product.start_cmd)
    .bind(&product.ready_cmd)
    .bind(build.vcpus)
    .bind(build.memory_mb)
    .bind(product.disk_mb.or(build.disk_mb))
    .bind(now)
    .bind(&product.driver)
    .execute(c)
    .await
    .map(|_| ()))
    .during("point a template to a build")
}

/// Builds whose replica has not been heard of.
pub async fn abandoned(db: &Db, before: Millis) -> Result<Vec<BuildRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM template_builds WHERE status IN ('waiting', 'building') AND alive_at < $1"
    ))
    .bind(before)
    .fetch_all(c)
    .await)
    .during("look for abandoned builds")
}

/// Everything of a template but its own row.
pub async fn remove_all(tx: &mut Tx, template: &TemplateId) -> Result<(), DbError> {
    for sql in [
        "DELETE FROM layer_refs WHERE holder = $1 OR holder IN (SELECT id FROM template_builds WHERE template_id = $1)",
        "DELETE FROM template_build_logs WHERE build_id IN (SELECT id FROM template_builds WHERE template_id = $1)",
        "DELETE FROM template_tags WHERE template_id = $1",
        "DELETE FROM template_tag_assignments WHERE template_id = $1",
        "DELETE FROM template_builds WHERE template_id = $1",
    ] {
        on!(tx tx, |c| sqlx::query(sql).bind(template.as_str()).execute(c).await.map(|_| ()))
            .during("delete a template's builds")?;
    }
    Ok(())
}
