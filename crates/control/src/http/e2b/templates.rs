//! Templates in E2B's words: asked for, listed, looked up, deleted, tagged. Snapshots are deleted here too: E2B's SDKs
//! take them for templates.

use std::collections::HashMap;

use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::template_wire as wire;
use super::wire::ENVD_VERSION;
use super::{builds, names};
use crate::app::App;
use crate::builds::recipe::{From, Recipe};
use crate::builds::store::{self, BuildRow};
use crate::builds::tags;
use crate::builds::{BuildError, DEFAULT_TAG, KIND, NewBuild};
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Pairs};
use crate::http::page::{Cursor, page};
use crate::http::validate;
use crate::sandboxes::{DEFAULT_DISK_MB, DEFAULT_MEMORY_MB, DEFAULT_VCPUS, Owner, store as sandboxes};
use crate::snapshots::SnapshotError;
use crate::templates::store::{self as rows, Template};

const LIMIT: usize = 100;
const MAX_TAGS: usize = 16;
const NEXT: HeaderName = HeaderName::from_static("x-next-token");

/// Asks for a build, of a template that is made when there is none. What is to be built is said later.
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    Json(request): Json<wire::NewTemplate>,
) -> ApiResult<(StatusCode, axum::Json<wire::Requested>)> {
    let (answer, _) = requested(&app, &owner, request).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(answer)))
}

/// The same for clients that expect to be told of the template, too.
pub async fn create_by_alias(
    State(app): State<App>,
    Key(owner): Key,
    Json(request): Json<wire::NewTemplate>,
) -> ApiResult<(StatusCode, axum::Json<wire::RequestedTemplate>)> {
    let (answer, row) = requested(&app, &owner, request).await?;
    let template = wire::Template { build_id: answer.build_id, ..Known::of(&app, &owner).await?.shown(&row) };
    Ok((StatusCode::ACCEPTED, axum::Json(wire::RequestedTemplate { template, tags: answer.tags })))
}

async fn requested(app: &App, owner: &Owner, request: wire::NewTemplate) -> ApiResult<(wire::Requested, Template)> {
    let name = request.name.or(request.alias).ok_or_else(|| ApiError::invalid("name", "is missing"))?;
    let target = names::target(app, owner, "name", &name).await?;
    let target = target.ok_or_else(|| ApiError::forbidden("this namespace is not your team's"))?;
    let mut tags = tags("tags", &request.tags.unwrap_or_default())?;
    tags.extend(target.tag);
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    tags.dedup();
    let disk_mb = request.min_free_disk_mb.filter(|free| *free > DEFAULT_DISK_MB);
    let new = NewBuild {
        name: target.name,
        tags: tags.clone(),
        recipe: Recipe::new(From::Template(String::new())),
        login: None,
        vcpus: request.cpu_count.map(|value| validate::within("cpuCount", value, validate::VCPUS)).transpose()?,
        memory_mb: request
            .memory_mb
            .map(|value| validate::within("memoryMB", value, validate::MEMORY_MB))
            .transpose()?,
        disk_mb: disk_mb.map(|value| validate::within("minFreeDiskMb", value, validate::DISK_MB)).transpose()?,
    };
    let (template, build) = app.builds.reserve(owner, new, request.public).await?;
    let namespace = names::namespace(app, owner).await?;
    let answer = wire::Requested {
        template_id: template.id.to_string(),
        build_id: names::uuid_of(&build.id.0),
        public: template.public,
        names: vec![format!("{namespace}/{}", template.name)],
        tags,
        aliases: vec![template.name.clone()],
    };
    Ok((answer, template))
}

fn tags(field: &'static str, given: &[String]) -> ApiResult<Vec<String>> {
    if given.len() > MAX_TAGS {
        return Err(ApiError::invalid(field, format!("must be at most {MAX_TAGS}")));
    }
    given.iter().map(|tag| names::tag(field, tag)).collect()
}

/// What lists know of templates beside their rows.
#[derive(Default)]
pub(super) struct Known {
    namespace: String,
    newest: HashMap<String, BuildRow>,
    builds: HashMap<String, i64>,
    /// Sandboxes of the team, and when the last one was made.
    uses: HashMap<String, (i64, Millis)>,
}

impl Known {
    pub(super) async fn of(app: &App, owner: &Owner) -> ApiResult<Self> {
        let (db, team) = (&app.db, &owner.team);
        let newest = store::newest(db, team).await?;
        Ok(Self {
            namespace: names::namespace(app, owner).await?,
            newest: newest.into_iter().map(|row| (row.template_id.to_string(), row)).collect(),
            builds: store::counts(db, team).await?.into_iter().map(|(id, count)| (id.to_string(), count)).collect(),
            uses: sandboxes::uses(db, team).await?.into_iter().map(|(id, count, at)| (id, (count, at))).collect(),
        })
    }

    pub(super) fn shown(&self, row: &Template) -> wire::Template {
        let id = row.id.to_string();
        let newest = self.newest.get(&id);
        let uses = self.uses.get(&id);
        let is_default = row.team_id.is_none();
        let name = if is_default { row.name.clone() } else { format!("{}/{}", self.namespace, row.name) };
        wire::Template {
            build_id: newest.map_or_else(names::no_uuid, |build| names::uuid_of(&build.id.0)),
            cpu_count: row.vcpus.unwrap_or(i64::from(DEFAULT_VCPUS)),
            memory_mb: row.memory_mb.unwrap_or(DEFAULT_MEMORY_MB as i64),
            disk_size_mb: row.disk_mb.unwrap_or(DEFAULT_DISK_MB as i64),
            public: is_default || row.public,
            aliases: vec![row.name.clone()],
            names: vec![name],
            created_at: row.created_at.to_utc(),
            updated_at: row.updated_at.to_utc(),
            created_by: None,
            last_spawned_at: uses.map(|(_, at)| at.to_utc()),
            spawn_count: uses.map_or(0, |(count, _)| *count),
            build_count: self.builds.get(&id).copied().unwrap_or(0),
            envd_version: ENVD_VERSION,
            build_status: newest.map_or("ready", builds::status_of),
            is_default,
            builds: None,
            template_id: id,
        }
    }
}

fn paging(pairs: &[(String, String)]) -> ApiResult<(usize, Option<Cursor>)> {
    let (mut limit, mut after) = (LIMIT, None);
    for (key, value) in pairs {
        match key.as_str() {
            "limit" => {
                let parsed = value.parse().ok().filter(|limit| (1..=LIMIT).contains(limit));
                limit = parsed.ok_or_else(|| ApiError::invalid("limit", format!("must be between 1 and {LIMIT}")))?;
            }
            "nextToken" if !value.is_empty() => {
                let cursor = Cursor::decode(value).map_err(|error| error.with_field("nextToken"))?;
                after = Some(cursor);
            }
            _ => {}
        }
    }
    Ok((limit, after))
}

fn with_next(body: impl serde::Serialize, next: Option<String>) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    response
}

/// A page of the team's own templates.
pub async fn list(State(app): State<App>, Key(owner): Key, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let (limit, after) = paging(&pairs)?;
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let found = rows::list_own(&app.db, KIND, &owner.team, after, limit + 1).await?;
    let known = Known::of(&app, &owner).await?;
    let cursor = |row: &Template| Cursor { at: row.created_at, id: row.id.to_string() };
    let page = page(found, limit, cursor, |row| known.shown(&row));
    Ok(with_next(page.items, page.next_cursor))
}

/// The platform's templates.
pub async fn defaults(State(app): State<App>, Key(owner): Key) -> ApiResult<axum::Json<Vec<wire::Template>>> {
    let known = Known::of(&app, &owner).await?;
    let found = rows::list(&app.db, KIND, &owner.team, None, LIMIT).await?;
    Ok(axum::Json(found.iter().filter(|row| row.team_id.is_none()).map(|row| known.shown(row)).collect()))
}

/// One template with its builds, the newest first.
pub async fn get(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Pairs(pairs): Pairs,
) -> ApiResult<Response> {
    let (limit, before) = paging(&pairs)?;
    let row = found(&app, &owner, &name).await?;
    let before = before.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let found = store::list_newest(&app.db, &row.id.0, before, limit + 1).await?;
    let mut shown = Known::of(&app, &owner).await?.shown(&row);
    let cursor = |row: &BuildRow| Cursor { at: row.created_at, id: row.id.to_string() };
    let page = page(found, limit, cursor, |build| wire::Build {
        build_id: names::uuid_of(&build.id.0),
        status: builds::status_of(&build),
        created_at: build.created_at.to_utc(),
        updated_at: build.finished_at.unwrap_or(build.created_at).to_utc(),
        finished_at: build.finished_at.map(Millis::to_utc),
        cpu_count: build.vcpus.unwrap_or(shown.cpu_count),
        memory_mb: build.memory_mb.unwrap_or(shown.memory_mb),
        disk_size_mb: build.disk_mb.unwrap_or(shown.disk_size_mb),
        envd_version: ENVD_VERSION,
    });
    shown.builds = Some(page.items);
    Ok(with_next(shown, page.next_cursor))
}

/// A template that the team can see.
pub async fn found(app: &App, owner: &Owner, name: &str) -> ApiResult<Template> {
    let target = names::wanted(app, owner, name).await?;
    match app.builds.template(owner, &target.name).await {
        Err(BuildError::NotFound(_)) => Err(names::missing(name)),
        found => Ok(found?),
    }
}

/// Whether there is a template of this name that the team can make sandboxes of, and its id. Another team's is one if it
/// is public.
pub async fn by_alias(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Value>> {
    let target = names::anywhere(&app, &owner, &name).await?;
    let row = rows::usable(&app.db, &target.name, &owner.team).await?;
    let row = row.filter(|row| row.kind == KIND).ok_or_else(|| names::missing(&name))?;
    if target.tag() != DEFAULT_TAG && tags::tagged(&app.db, &row, target.tag()).await?.is_none() {
        return Err(names::missing(&name));
    }
    Ok(axum::Json(json!({ "templateID": row.id.as_str(), "public": row.team_id.is_none() || row.public })))
}

/// Publishes the team's template to all teams, or makes it the team's alone again.
pub async fn update(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Json(update): Json<wire::Update>,
) -> ApiResult<axum::Json<Value>> {
    let row = found(&app, &owner, &name).await?;
    if row.team_id.is_none() {
        return Err(BuildError::Platform(row.name).into());
    }
    if let Some(public) = update.public {
        app.builds.publish(&owner, row.id.as_str(), public).await?;
    }
    let namespace = names::namespace(&app, &owner).await?;
    Ok(axum::Json(json!({ "names": [format!("{namespace}/{}", row.name)] })))
}

/// Deletes a template, or a snapshot by what a create answered.
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<StatusCode> {
    let target = names::wanted(&app, &owner, &name).await?;
    match app.snapshots.delete(&owner, &target.name).await {
        Ok(()) => return Ok(StatusCode::NO_CONTENT),
        Err(SnapshotError::NotFound | SnapshotError::Platform(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match app.builds.delete(&owner, &target.name).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(BuildError::NotFound(_)) => Err(names::missing(&name)),
        Err(error) => Err(error.into()),
    }
}

/// Gives a build more tags.
pub async fn assign(
    State(app): State<App>,
    Key(owner): Key,
    Json(request): Json<wire::NewTags>,
) -> ApiResult<(StatusCode, axum::Json<wire::Assigned>)> {
    let target = names::target(&app, &owner, "target", &request.target).await?;
    let target = target.ok_or_else(|| names::missing(&request.target))?;
    let tags = some_tags(&request.tags)?;
    let build = app.builds.tag(&owner, &target, &tags).await?;
    Ok((StatusCode::CREATED, axum::Json(wire::Assigned { tags, build_id: names::uuid_of(&build) })))
}

/// Takes tags away.
pub async fn remove(
    State(app): State<App>,
    Key(owner): Key,
    Json(request): Json<wire::OldTags>,
) -> ApiResult<StatusCode> {
    let target = names::target(&app, &owner, "name", &request.name).await?;
    let target = target.ok_or_else(|| names::missing(&request.name))?;
    app.builds.untag(&owner, &target.name, &some_tags(&request.tags)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn some_tags(given: &[String]) -> ApiResult<Vec<String>> {
    match tags("tags", given)? {
        tags if tags.is_empty() => Err(ApiError::invalid("tags", "must name at least one")),
        tags => Ok(tags),
    }
}

/// A template's tags, by name.
pub async fn list_tags(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Vec<wire::Tag>>> {
    let row = found(&app, &owner, &name).await?;
    let tags = tags::list(&app.db, &row.id.0).await?;
    let shown = |tag: tags::TagRow| wire::Tag {
        tag: tag.tag,
        build_id: names::uuid_of(&tag.build_id.0),
        created_at: tag.created_at.to_utc(),
    };
    Ok(axum::Json(tags.into_iter().map(shown).collect()))
}

/// How many tags a template has.
pub async fn count_tags(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Value>> {
    let row = found(&app, &owner, &name).await?;
    Ok(axum::Json(json!({ "total": tags::list(&app.db, &row.id.0).await?.len() })))
}

/// Whether a template has this tag.
pub async fn has_tag(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Value>> {
    let wanted = pairs.iter().find(|(key, _)| key == "tag").map(|(_, value)| value.as_str()).unwrap_or_default();
    let wanted = names::tag("tag", wanted)?;
    let row = found(&app, &owner, &name).await?;
    let exists = tags::list(&app.db, &row.id.0).await?.iter().any(|row| row.tag == wanted);
    Ok(axum::Json(json!({ "exists": exists, "normalizedTag": wanted })))
}
