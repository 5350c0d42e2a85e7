//! SQL of what tags were given to, one after the other: the last of each is in [`super::tags`].

use atoll_model::{BuildId, TemplateId};

use crate::db::{Db, DbError, During, Millis, Sql, Text, Tx, containing, on};

/// Of one tag; older ones are forgotten.
const KEPT: i64 = 1000;

/// A tag was given to a build.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Assignment {
    /// A UUID.
    pub id: String,
    pub tag: String,
    pub build_id: Text<BuildId>,
    pub assigned_at: Millis,
    pub build_created_at: Millis,
    pub build_finished_at: Option<Millis>,
}

/// A tag, and when it was given last to a build that is ready.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Group {
    pub tag: String,
    pub latest: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    LatestFirst,
    LatestLast,
    ByName,
    ByNameBackwards,
}

/// Notes that a tag is given to a build.
pub async fn add(tx: &mut Tx, template: &TemplateId, tag: &str, build: &BuildId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO template_tag_assignments (id, template_id, tag, build_id, assigned_at) VALUES ($1, $2, $3, $4, $5)"
    )
    .bind(uuid())
    .bind(template.as_str())
    .bind(tag)
    .bind(build.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note what a tag is given to")?;
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM template_tag_assignments WHERE id IN (SELECT id FROM template_tag_assignments
         WHERE template_id = $1 AND tag = $2 ORDER BY assigned_at DESC, id DESC LIMIT 1000 OFFSET $3)"
    )
    .bind(template.as_str())
    .bind(tag)
    .bind(KEPT)
    .execute(c)
    .await
    .map(|_| ()))
    .during("forget what a tag was given to long ago")
}

/// The tag is taken away.
pub async fn forget(tx: &mut Tx, template: &TemplateId, tag: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM template_tag_assignments WHERE template_id = $1 AND tag = $2")
        .bind(template.as_str())
        .bind(tag)
        .execute(c)
        .await
        .map(|_| ()))
    .during("forget what a tag was given to")
}

/// A template's tags that have `search` in them, in this order, after the one of `after`.
pub async fn groups(
    db: &Db,
    template: &TemplateId,
    search: &str,
    order: Order,
    after: Option<&Group>,
    limit: usize,
) -> Result<Vec<Group>, DbError> {
    let mut sql = Sql::new(
        "SELECT a.tag, MAX(a.assigned_at) AS latest FROM template_tag_assignments a
         JOIN template_builds b ON b.id = a.build_id WHERE b.status = 'ready'",
    );
    sql.with(" AND a.template_id = ?", template.as_str());
    if !search.is_empty() {
        sql.with(" AND a.tag LIKE ? ESCAPE '\\'", containing(search).as_str());
    }
    sql.push(" GROUP BY a.tag");
    if let Some(after) = after {
        match order {
            Order::LatestFirst => sql
                .with(" HAVING MAX(a.assigned_at) < ? OR (MAX(a.assigned_at) = ?", after.latest)
                .with(" AND a.tag > ?)", after.tag.as_str()),
            Order::LatestLast => sql
                .with(" HAVING MAX(a.assigned_at) > ? OR (MAX(a.assigned_at) = ?", after.latest)
                .with(" AND a.tag > ?)", after.tag.as_str()),
            Order::ByName => sql.with(" HAVING a.tag > ?", after.tag.as_str()),
            Order::ByNameBackwards => sql.with(" HAVING a.tag < ?", after.tag.as_str()),
        };
    }
    sql.push(match order {
        Order::LatestFirst => " ORDER BY latest DESC, a.tag",
        Order::LatestLast => " ORDER BY latest, a.tag",
        Order::ByName => " ORDER BY a.tag",
        Order::ByNameBackwards => " ORDER BY a.tag DESC",
    });
    sql.with(" LIMIT ?", i64::try_from(limit).unwrap_or(i64::MAX));
    sql.fetch_all(db, "list a template's tags with what they were given to").await
}

/// What each of these tags was given to, the last first, so many of each: of builds that are ready.
pub async fn newest(db: &Db, template: &TemplateId, groups: &[Group], each: usize) -> Result<Vec<Assignment>, DbError> {
    let Some((first, others)) = groups.split_first() else { return Ok(Vec::new()) };
    let mut sql = Sql::new(
        "SELECT id, tag, build_id, assigned_at, build_created_at, build_finished_at FROM (
         SELECT a.id, a.tag, a.build_id, a.assigned_at, b.created_at AS build_created_at,
         b.finished_at AS build_finished_at,
         ROW_NUMBER() OVER (PARTITION BY a.tag ORDER BY a.assigned_at DESC, a.id DESC) AS place
         FROM template_tag_assignments a JOIN template_builds b ON b.id = a.build_id WHERE b.status = 'ready'",
    );
    sql.with(" AND a.template_id = ?", template.as_str()).with(" AND a.tag IN (?", first.tag.as_str());
    for group in others {
        sql.with(", ?", group.tag.as_str());
    }
    sql.with(")) given WHERE place <= ? ORDER BY tag, place", i64::try_from(each).unwrap_or(i64::MAX));
    sql.fetch_all(db, "list what tags were given to").await
}

/// What a tag was given to, the last first, before (time, id): builds that are ready.
pub async fn of_tag(
    db: &Db,
    template: &TemplateId,
    tag: &str,
    before: Option<(Millis, &str)>,
    limit: usize,
) -> Result<Vec<Assignment>, DbError> {
    let mut sql = Sql::new(
        "SELECT a.id, a.tag, a.build_id, a.assigned_at, b.created_at AS build_created_at,
         b.finished_at AS build_finished_at
         FROM template_tag_assignments a JOIN template_builds b ON b.id = a.build_id WHERE b.status = 'ready'",
    );
    sql.with(" AND a.template_id = ?", template.as_str()).with(" AND a.tag = ?", tag);
    if let Some((at, id)) = before {
        sql.with(" AND (a.assigned_at, a.id) < (?", at).with(", ?)", id);
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    sql.with(" ORDER BY a.assigned_at DESC, a.id DESC LIMIT ?", limit);
    sql.fetch_all(db, "list what a tag was given to").await
}

/// A UUID of chance alone (version 4).
fn uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignments_id_is_a_uuid_of_version_4() {
        for _ in 0..64 {
            let id = uuid();
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }
}
