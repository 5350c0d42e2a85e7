//! SQL of tags: names of builds within their template. What each was given to before is in [`super::assignments`].

use std::collections::BTreeMap;

use atoll_model::{BuildId, TemplateId};
use sqlx::types::Json;

use super::assignments;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::templates::store::Template;

/// A name for a build within its template, in place of the build that had it.
pub async fn set(tx: &mut Tx, template: &TemplateId, tag: &str, build: &BuildId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO template_tags (template_id, tag, build_id, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (template_id, tag) DO UPDATE SET build_id = excluded.build_id, created_at = excluded.created_at"
    )
    .bind(template.as_str())
    .bind(tag)
    .bind(build.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("tag a build")?;
    assignments::add(tx, template, tag, build, now).await
}

/// The build that has this tag, if it is ready.
pub async fn build_of(tx: &mut Tx, template: &TemplateId, tag: &str) -> Result<Option<BuildId>, DbError> {
    let row: Option<(Text<BuildId>,)> = on!(tx tx, |c| sqlx::query_as(
        "SELECT b.id FROM template_tags t JOIN template_builds b ON b.id = t.build_id
         WHERE t.template_id = $1 AND t.tag = $2 AND b.status = 'ready'"
    )
    .bind(template.as_str())
    .bind(tag)
    .fetch_optional(c)
    .await)
    .during("find a tag's build")?;
    Ok(row.map(|row| row.0.0))
}

/// Takes a name from a build, and forgets what had it before. Whether there was such a name.
pub async fn remove(tx: &mut Tx, template: &TemplateId, tag: &str) -> Result<bool, DbError> {
    assignments::forget(tx, template, tag).await?;
    on!(tx tx, |c| sqlx::query("DELETE FROM template_tags WHERE template_id = $1 AND tag = $2")
        .bind(template.as_str())
        .bind(tag)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("take a tag away")
}

/// Lets go of what builds without a tag stand on.
pub async fn release_untagged(tx: &mut Tx, template: &TemplateId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM layer_refs WHERE holder IN (SELECT b.id FROM template_builds b WHERE b.template_id = $1
         AND NOT EXISTS (SELECT 1 FROM template_tags t WHERE t.template_id = $1 AND t.build_id = b.id))"
    )
    .bind(template.as_str())
    .execute(c)
    .await
    .map(|_| ()))
    .during("release builds without a tag")
}

/// `template` as the build with this tag made it.
pub async fn tagged(db: &Db, template: &Template, tag: &str) -> Result<Option<(Template, BuildId)>, DbError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        id: Text<BuildId>,
        digest: String,
        size_bytes: i64,
        default_user: String,
        default_workdir: String,
        env: Json<BTreeMap<String, String>>,
        start_cmd: Option<String>,
        ready_cmd: Option<String>,
        vcpus: Option<i64>,
        memory_mb: Option<i64>,
        disk_mb: Option<i64>,
        driver: String,
    }
    let row: Option<Row> = on!(read db, |c| sqlx::query_as(
        "SELECT b.id, b.digest, b.size_bytes, b.default_user, b.default_workdir, b.env, b.start_cmd, b.ready_cmd,
         b.vcpus, b.memory_mb, b.disk_mb, b.driver FROM template_tags t JOIN template_builds b ON b.id = t.build_id
         WHERE t.template_id = $1 AND t.tag = $2 AND b.status = 'ready'"
    )
    .bind(template.id.as_str())
    .bind(tag)
    .fetch_optional(c)
    .await)
    .during("find a build by its tag")?;
    Ok(row.map(|row| {
        let found = Template {
            name: format!("{}:{tag}", template.name),
            digest: row.digest,
            size_bytes: row.size_bytes,
            default_user: row.default_user,
            default_workdir: row.default_workdir,
            env: row.env,
            start_cmd: row.start_cmd,
            ready_cmd: row.ready_cmd,
            vcpus: row.vcpus,
            memory_mb: row.memory_mb,
            disk_mb: row.disk_mb,
            driver: row.driver,
            ..template.clone()
        };
        (found, row.id.0)
    }))
}

/// A name of a build in its template.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TagRow {
    pub tag: String,
    pub build_id: Text<BuildId>,
    pub created_at: Millis,
}

/// A template's tags, by name.
pub async fn list(db: &Db, template: &TemplateId) -> Result<Vec<TagRow>, DbError> {
    let sql = "SELECT tag, build_id, created_at FROM template_tags WHERE template_id = $1 ORDER BY tag";
    on!(read db, |c| sqlx::query_as(sql)
        .bind(template.as_str())
        .fetch_all(c)
        .await)
    .during("list a template's tags")
}
