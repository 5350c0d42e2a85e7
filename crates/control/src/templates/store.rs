//! Template rows. A name is unique within its team and among the platform's (team NULL); a team's own template hides
//! the platform's of the same name, as its own files would. What another team has published is found by its id, or by
//! `namespace/name`, never by its bare name; and never for a change of it.

use std::collections::BTreeMap;

use atoll_model::{SandboxId, TeamId, TemplateId};
use sqlx::FromRow;
use sqlx::types::Json;

use super::{BaseImage, shipped};
use crate::db::{Db, DbError, During, Millis, Sql, Text, Tx, on};
use crate::teams::store as teams;

/// User and working directory of the programs in sandboxes of `base`.
const BASE_USER: &str = "user";
const BASE_WORKDIR: &str = "/home/user";

/// A template as the database knows it.
#[derive(Debug, Clone, FromRow)]
pub struct Template {
    pub id: Text<TemplateId>,
    /// None for the platform's.
    pub team_id: Option<Text<TeamId>>,
    pub name: String,
    /// SHA-256 of the image file, hex.
    pub digest: String,
    pub size_bytes: i64,
    /// `container`, `vm` or `auto`.
    pub driver: String,
    /// Defaults of its sandboxes; the platform's where there are none.
    pub vcpus: Option<i64>,
    pub memory_mb: Option<i64>,
    pub disk_mb: Option<i64>,
    pub default_user: String,
    pub default_workdir: String,
    pub env: Json<BTreeMap<String, String>>,
    /// Run at each start of a sandbox's processes.
    pub start_cmd: Option<String>,
    /// Asked again and again at a create until it succeeds.
    pub ready_cmd: Option<String>,
    /// `template` or `snapshot`.
    pub kind: String,
    /// Its team lets all teams make sandboxes of it.
    pub public: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}

macro_rules! columns {
    () => {
        "id, team_id, name, digest, size_bytes, driver, vcpus, memory_mb, disk_mb, default_user, default_workdir, \
         env, start_cmd, ready_cmd, kind, public, created_at, updated_at"
    };
}

/// Makes the platform's template of the image's name point to the image. Its id stays, so that sandboxes that name it
/// by id go on doing so after an upgrade.
pub async fn register_base(db: &Db, image: &BaseImage, now: Millis) -> Result<Template, DbError> {
    let size = i64::try_from(image.size_bytes).unwrap_or(i64::MAX);
    on!(write db, |c| sqlx::query_as(concat!(
        "INSERT INTO templates (id, team_id, name, kind, digest, size_bytes, driver, default_user, default_workdir, \
         created_at, updated_at) VALUES ($1, NULL, $2, 'template', $3, $4, 'auto', $5, $6, $7, $7) \
         ON CONFLICT (COALESCE(team_id, ''), name) DO UPDATE SET \
         updated_at = CASE WHEN templates.digest = excluded.digest THEN templates.updated_at ELSE excluded.updated_at END, \
         digest = excluded.digest, size_bytes = excluded.size_bytes, \
         default_user = excluded.default_user, default_workdir = excluded.default_workdir RETURNING ",
        columns!()
    ))
    .bind(Text(TemplateId::new()))
    .bind(&image.name)
    .bind(&image.digest)
    .bind(size)
    .bind(BASE_USER)
    .bind(BASE_WORKDIR)
    .bind(now)
    .fetch_one(c)
    .await)
    .during("register the base template")
}

/// Makes sure that the platform's template of this name is there; without an image it stands for one that is built when
/// it is wanted, and one that it has already stays. Its id stays whatever its image is.
pub async fn register_shipped(
    db: &Db,
    name: &str,
    image: Option<&BaseImage>,
    now: Millis,
) -> Result<Template, DbError> {
    let size = image.map_or(0, |image| i64::try_from(image.size_bytes).unwrap_or(i64::MAX));
    on!(write db, |c| sqlx::query_as(concat!(
        "INSERT INTO templates (id, team_id, name, kind, digest, size_bytes, driver, memory_mb, default_user, \
         default_workdir, start_cmd, ready_cmd, created_at, updated_at) \
         VALUES ($1, NULL, $2, 'template', $3, $4, 'auto', $5, $6, $7, $8, $9, $10, $10) \
         ON CONFLICT (COALESCE(team_id, ''), name) DO UPDATE SET \
         updated_at = CASE WHEN excluded.digest IN ('', templates.digest) THEN templates.updated_at \
         ELSE excluded.updated_at END, \
         digest = CASE WHEN excluded.digest = '' THEN templates.digest ELSE excluded.digest END, \
         size_bytes = CASE WHEN excluded.digest = '' THEN templates.size_bytes ELSE excluded.size_bytes END, \
         memory_mb = excluded.memory_mb, start_cmd = excluded.start_cmd, ready_cmd = excluded.ready_cmd RETURNING ",
        columns!()
    ))
    .bind(Text(TemplateId::new()))
    .bind(name)
    .bind(image.map_or("", |image| image.digest.as_str()))
    .bind(size)
    .bind(shipped::MEMORY_MB)
    .bind(BASE_USER)
    .bind(BASE_WORKDIR)
    .bind(shipped::START_CMD)
    .bind(shipped::READY_CMD)
    .bind(now)
    .fetch_one(c)
    .await)
    .during("register a template that ships")
}

/// The template or snapshot that `team` means by a name or an id: its own before the platform's, never another's. The
/// platform's are found by their other names, too.
pub async fn find(db: &Db, name_or_id: &str, team: &TeamId) -> Result<Option<Template>, DbError> {
    match (find_exactly(db, name_or_id, team).await?, shipped::ships_as(name_or_id)) {
        (None, Some(name)) => find_exactly(db, name, team).await,
        (found, _) => Ok(found),
    }
}

async fn find_exactly(db: &Db, name_or_id: &str, team: &TeamId) -> Result<Option<Template>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM templates WHERE (id = $1 OR name = $1) AND (team_id = $2 OR team_id IS NULL) \
         ORDER BY CASE WHEN team_id IS NULL THEN 1 ELSE 0 END, CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(name_or_id)
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("find a template")
}

/// What `team` may make sandboxes of by this name or id: what [`find`] finds, or what another team has published, by its
/// id or as `namespace/name`. That is named with its namespace in what this answers.
pub async fn usable(db: &Db, name_or_id: &str, team: &TeamId) -> Result<Option<Template>, DbError> {
    let found = match name_or_id.split_once('/') {
        Some((namespace, name)) => in_namespace(db, namespace, name, team).await?,
        None => match find(db, name_or_id, team).await? {
            Some(found) => Some(found),
            None => by_id(db, name_or_id).await?.filter(Template::is_published),
        },
    };
    let Some(template) = found else { return Ok(None) };
    let others = template.team_id.as_ref().filter(|whose| whose.0 != *team);
    let Some(others) = others else { return Ok(Some(template)) };
    let slug = teams::get(db, &others.0, None).await?.map(|owner| owner.slug);
    Ok(slug.map(|slug| Template { name: format!("{slug}/{}", template.name), ..template }))
}

/// A namespace is a team's slug, or its id.
async fn in_namespace(db: &Db, namespace: &str, name: &str, team: &TeamId) -> Result<Option<Template>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM templates WHERE name = $2 AND team_id IN (SELECT id FROM teams WHERE slug = $1 OR id = $1)
         AND (team_id = $3 OR (public AND kind = 'template')) ORDER BY CASE WHEN team_id = $1 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(namespace)
    .bind(name)
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("find a template in a namespace")
}

/// What `team` means by `[namespace/]name[:tag]` or an id, and what holds its layers.
pub async fn resolve(db: &Db, name: &str, team: &TeamId) -> Result<Option<(Template, String)>, DbError> {
    let (bare, tag) = match name.split_once(':') {
        Some((bare, tag)) if tag != "default" => (bare, Some(tag)),
        Some((bare, _)) => (bare, None),
        None => (name, None),
    };
    let Some(template) = usable(db, bare, team).await? else { return Ok(None) };
    match tag {
        None => {
            let holder = template.id.to_string();
            Ok(Some((template, holder)))
        }
        Some(tag) => {
            let tagged = crate::builds::tags::tagged(db, &template, tag).await?;
            Ok(tagged.map(|(template, build)| (template, build.to_string())))
        }
    }
}

/// Any team's template or snapshot, by its id.
pub async fn by_id(db: &Db, id: &str) -> Result<Option<Template>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM templates WHERE id = $1"))
        .bind(id)
        .fetch_optional(c)
        .await)
    .during("read a template")
}

/// Which of a team's snapshots are wanted.
#[derive(Debug, Clone, Default)]
pub struct WantedSnapshots {
    /// Of this sandbox.
    pub sandbox: Option<SandboxId>,
    pub name: Option<String>,
    /// The place in the order after which the page begins.
    pub after: Option<(Millis, String)>,
}

/// A team's snapshots, newest first.
pub async fn snapshots(
    db: &Db,
    team: &TeamId,
    wanted: &WantedSnapshots,
    limit: usize,
) -> Result<Vec<Template>, DbError> {
    let mut sql = Sql::new(concat!("SELECT ", columns!(), " FROM templates WHERE kind = 'snapshot'"));
    sql.with(" AND team_id = ?", team.as_str());
    sql.with_some(" AND sandbox_id = ?", wanted.sandbox.as_ref().map(|id| id.as_str()));
    sql.with_some(" AND name = ?", wanted.name.as_deref());
    if let Some((at, id)) = &wanted.after {
        sql.with(" AND (created_at < ?", *at).with(" OR (created_at = ?", *at).with(" AND id < ?))", id.as_str());
    }
    sql.push(" ORDER BY created_at DESC, id DESC").with(" LIMIT ?", i64::try_from(limit).unwrap_or(i64::MAX));
    sql.fetch_all(db, "list a team's snapshots").await
}

/// A team's own template or snapshot of this name or id, for a change of it.
pub async fn own(tx: &mut Tx, name_or_id: &str, team: &TeamId) -> Result<Option<Template>, DbError> {
    on!(tx tx, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM templates WHERE (id = $1 OR name = $1) AND team_id = $2 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(name_or_id)
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("find a team's template")
}

/// Inserts a team's template or snapshot; nothing when the team has one of that name.
pub async fn insert(tx: &mut Tx, new: &Template, by: Option<&str>, sandbox: Option<&str>) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO templates (id, team_id, name, kind, digest, size_bytes, driver, vcpus, memory_mb, disk_mb,
         default_user, default_workdir, env, start_cmd, ready_cmd, created_by, sandbox_id, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
         ON CONFLICT (COALESCE(team_id, ''), name) DO NOTHING"
    )
    .bind(new.id.as_str())
    .bind(new.team_id.as_ref().map(|team| team.as_str()))
    .bind(&new.name)
    .bind(&new.kind)
    .bind(&new.digest)
    .bind(new.size_bytes)
    .bind(&new.driver)
    .bind(new.vcpus)
    .bind(new.memory_mb)
    .bind(new.disk_mb)
    .bind(&new.default_user)
    .bind(&new.default_workdir)
    .bind(&new.env)
    .bind(&new.start_cmd)
    .bind(&new.ready_cmd)
    .bind(by)
    .bind(sandbox)
    .bind(new.created_at)
    .bind(new.updated_at)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("insert a template")
}

/// Publishes it, or makes it its team's alone again.
pub async fn set_public(tx: &mut Tx, id: &TemplateId, public: bool, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE templates SET public = $2, updated_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(public)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("publish a template")
}

/// Deletes the row.
pub async fn delete(tx: &mut Tx, id: &TemplateId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM templates WHERE id = $1").bind(id.as_str()).execute(c).await.map(|_| ()))
        .during("delete a template")
}

/// Templates that `team` can use, oldest first; at most `limit`, those after (time of creation, id) when given.
pub async fn list(
    db: &Db,
    kind: &str,
    team: &TeamId,
    after: Option<(Millis, &str)>,
    limit: usize,
) -> Result<Vec<Template>, DbError> {
    let (created_at, id) = after.unwrap_or((Millis(i64::MIN), ""));
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM templates WHERE kind = $5 AND (team_id = $1 OR team_id IS NULL) \
         AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(created_at)
    .bind(id)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(kind)
    .fetch_all(c)
    .await)
    .during("list templates")
}

/// A team's own templates or snapshots, oldest first, after (time of creation, id).
pub async fn list_own(
    db: &Db,
    kind: &str,
    team: &TeamId,
    after: Option<(Millis, &str)>,
    limit: usize,
) -> Result<Vec<Template>, DbError> {
    let (created_at, id) = after.unwrap_or((Millis(i64::MIN), ""));
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM templates WHERE kind = $5 AND team_id = $1 AND (created_at, id) > ($2, $3)
         ORDER BY created_at, id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(created_at)
    .bind(id)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(kind)
    .fetch_all(c)
    .await)
    .during("list a team's templates")
}

impl Template {
    /// Whether teams may use it that it does not belong to.
    fn is_published(&self) -> bool {
        self.public && self.kind == "template"
    }

    /// As the API shows it.
    #[must_use]
    pub fn to_api(&self) -> atoll_model::api::templates::Template {
        atoll_model::api::templates::Template {
            id: self.id.0.clone(),
            name: self.name.clone(),
            platform: self.team_id.is_none(),
            public: self.public,
            digest: self.digest.clone(),
            size_bytes: u64::try_from(self.size_bytes).unwrap_or(0),
            default_user: self.default_user.clone(),
            default_workdir: self.default_workdir.clone(),
            driver: self.driver.clone(),
            created_at: self.created_at.to_utc(),
            updated_at: self.updated_at.to_utc(),
        }
    }
}
