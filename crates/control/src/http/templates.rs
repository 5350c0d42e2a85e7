//! Templates that the caller's team can use, and their builds.

use std::time::Duration;

use atoll_model::api::Page;
use atoll_model::api::templates::{
    Build, BuildLogLine, BuildStatus, CreateTemplateRequest, StartedBuild, Template, TemplateTags,
    UpdateTemplateRequest,
};
use atoll_model::{BuildId, ErrorCode, TeamId};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::registry::OwnNames;
use super::{idempotent, snapshots, validate};
use crate::app::App;
use crate::builds::lines::LogRow;
use crate::builds::recipe::{self, From as Base, Recipe};
use crate::builds::store::BuildRow;
use crate::builds::{BuildError, Builds, NewBuild};
use crate::oci::Login;
use crate::sandboxes::{DEFAULT_MEMORY_MB, DEFAULT_VCPUS};
use crate::templates::store;

/// Files for `COPY`, compressed or not.
const MAX_FILES: u64 = 4 << 30;
/// How often a build's log is looked at for whoever reads along.
const LOOK: Duration = Duration::from_millis(200);
const LINES: i64 = 1000;
const MAX_TAGS: usize = 16;

/// Routes that answer soon.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(tags))
        .routes(routes!(builds))
        .routes(routes!(build, cancel))
}

/// Routes that take as long as a build does.
pub fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(logs))
}

/// Routes whose body is bounded by themselves.
pub fn uploads() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(upload, uploaded))
}

impl From<BuildError> for ApiError {
    fn from(error: BuildError) -> Self {
        let message = error.to_string();
        match error {
            BuildError::NotFound(what) => Self::not_found(what),
            BuildError::Platform(_) => Self::forbidden(message),
            BuildError::NameTaken(_) => Self::new(ErrorCode::NameTaken, message).with_field("name"),
            BuildError::TooMany { limit } => Self::new(ErrorCode::QuotaExceeded, message)
                .with_detail("quota", "builds")
                .with_detail("used", limit)
                .with_detail("limit", limit)
                .with_retry_after(Duration::from_secs(10)),
            BuildError::OfOwnMachines => Self::conflict(message),
            BuildError::Over | BuildError::Begun => Self::new(ErrorCode::InvalidState, message),
            BuildError::DefaultTag(_) => Self::invalid("tags", message),
            BuildError::Db(error) => error.into(),
        }
    }
}

fn to_api(row: &BuildRow) -> Build {
    let status = match row.status.as_str() {
        "waiting" => BuildStatus::Waiting,
        "building" => BuildStatus::Building,
        "ready" => BuildStatus::Ready,
        "cancelled" => BuildStatus::Cancelled,
        _ => BuildStatus::Error,
    };
    Build {
        id: row.id.0.clone(),
        template_id: row.template_id.0.clone(),
        status,
        reason: row.reason.clone(),
        step: row.step.clone(),
        created_at: row.created_at.to_utc(),
        finished_at: row.finished_at.map(crate::db::Millis::to_utc),
    }
}

fn line(row: LogRow) -> BuildLogLine {
    BuildLogLine { seq: row.seq, timestamp: row.at.to_utc(), level: row.level, step: row.step, message: row.message }
}

/// A request for a build, checked.
fn new_build(request: CreateTemplateRequest) -> ApiResult<NewBuild> {
    let (name, tag) = match request.name.split_once(':') {
        Some((name, tag)) => (name.to_owned(), Some(tag.to_owned())),
        None => (request.name.clone(), None),
    };
    snapshots::name("name", &name)?;
    let mut tags = request.tags;
    tags.extend(tag);
    let is_tag = |tag: &String| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
        (1..=64).contains(&tag.len()) && tag.bytes().all(plain)
    };
    if tags.len() > MAX_TAGS || !tags.iter().all(is_tag) {
        let message = format!("must be at most {MAX_TAGS} names of lower-case letters, digits, `-`, `_` and `.`");
        return Err(ApiError::invalid("tags", message));
    }
    if let Some(context) = &request.context {
        check_hash("context", context)?;
    }
    let mut recipe = match (&request.recipe, &request.image) {
        (Some(text), None) => recipe::parse(text, request.context.as_deref())
            .map_err(|error| ApiError::invalid("recipe", error.to_string()))?,
        (None, Some(image)) => Recipe::new(Base::Image(image.clone())),
        _ => return Err(ApiError::invalid("recipe", "say what to build from: a recipe, or an image")),
    };
    if let Base::Image(image) = &recipe.from
        && let Err(error) = image.parse::<crate::oci::Reference>()
    {
        let field = if request.image.is_some() { "image" } else { "recipe" };
        return Err(ApiError::invalid(field, error.to_string()));
    }
    recipe.start_cmd = request.start_cmd.or(recipe.start_cmd);
    recipe.ready_cmd = request.ready_cmd.or(recipe.ready_cmd);
    recipe.driver = request.driver.map(|driver| validate::driver("driver", driver)).transpose()?;
    if request.keep_memory && recipe.driver.as_deref() != Some("vm") {
        return Err(ApiError::invalid("keep_memory", "takes `driver` `vm`: of a container no memory can be kept"));
    }
    recipe.keep_memory = request.keep_memory;
    // Memory goes on in machines of that size alone, so it is said.
    let (mut vcpus, mut memory_mb) = (request.vcpus, request.memory_mb);
    if request.keep_memory {
        vcpus.get_or_insert(DEFAULT_VCPUS);
        memory_mb.get_or_insert(DEFAULT_MEMORY_MB);
    }
    recipe.force = request.force;
    recipe.check().map_err(|problem| ApiError::invalid("recipe", problem))?;
    if let Some(login) = &request.registry {
        validate::line("registry.username", &login.username, 256)?;
        validate::line("registry.password", &login.password, 8192)?;
    }
    let login = request.registry.map(|it| Login { username: it.username, password: it.password.into() });
    Ok(NewBuild {
        name,
        tags,
        recipe,
        login,
        vcpus: vcpus.map(|value| validate::within("vcpus", value, validate::VCPUS)).transpose()?,
        memory_mb: memory_mb.map(|value| validate::within("memory_mb", value, validate::MEMORY_MB)).transpose()?,
        disk_mb: request.disk_mb.map(|value| validate::within("disk_mb", value, validate::DISK_MB)).transpose()?,
    })
}

fn check_hash(field: &'static str, hash: &str) -> ApiResult<()> {
    if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Ok(());
    }
    Err(ApiError::invalid(field, "must be 64 lower-case hex digits"))
}

/// Begins a build. It goes on by itself; its log can be read along.
#[utoipa::path(post, path = "/v1/templates", tag = "templates", request_body = CreateTemplateRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = StartedBuild), (status = 409), (status = 429)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    own: OwnNames,
    headers: HeaderMap,
    Json(request): Json<CreateTemplateRequest>,
) -> ApiResult<Response> {
    let key = idempotent::key(&headers, owner.team.as_str(), "templates", &request)?;
    let mut new = new_build(request)?;
    own.apply(&mut new.recipe);
    let service = app.builds.clone();
    let work = async move {
        let (template, build) = service.start(&owner, new).await?;
        Ok(StartedBuild { template: template.to_api(), build: to_api(&build) })
    };
    idempotent::once(&app, key, StatusCode::ACCEPTED, work, StartedBuild::clone).await
}

/// Publishes a template of the team's to all teams, or makes it the team's alone again. Sandboxes that other teams have made
/// from it live on.
#[utoipa::path(patch, path = "/v1/templates/{name}", tag = "templates", request_body = UpdateTemplateRequest,
    params(("name" = String, Path, description = "A name or an id")),
    responses((status = 200, body = Template), (status = 403), (status = 404), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Json(update): Json<UpdateTemplateRequest>,
) -> ApiResult<axum::Json<Template>> {
    let row = match update.public {
        Some(public) => app.builds.publish(&owner, &name, public).await?,
        None => app.builds.template(&owner, &name).await?,
    };
    Ok(axum::Json(row.to_api()))
}

/// Deletes a template with its builds. Sandboxes that were made from it live on.
#[utoipa::path(delete, path = "/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "A name or an id")), responses((status = 204), (status = 404)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<StatusCode> {
    app.builds.delete(&owner, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the builds of a template are called.
#[utoipa::path(get, path = "/v1/templates/{name}/tags", tag = "templates",
    params(("name" = String, Path, description = "A name or an id")),
    responses((status = 200, body = TemplateTags), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn tags(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<TemplateTags>> {
    let template = app.builds.template(&owner, &name).await?;
    let tags = crate::builds::tags::list(&app.db, &template.id.0).await?;
    Ok(axum::Json(TemplateTags { tags: tags.into_iter().map(|row| (row.tag, row.build_id.0)).collect() }))
}

/// A template's builds, oldest first.
#[utoipa::path(get, path = "/v1/templates/{name}/builds", tag = "templates",
    params(("name" = String, Path, description = "A name or an id"), PageQuery),
    responses((status = 200, body = Page<Build>), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn builds(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Build>>> {
    let (limit, after) = (query.limit()?, query.cursor()?);
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let template = app.builds.template(&owner, &name).await?;
    let rows = crate::builds::store::list(&app.db, &template.id.0, after, limit as i64 + 1).await?;
    let cursor = |row: &BuildRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, |row| to_api(&row))))
}

/// One build.
#[utoipa::path(get, path = "/v1/templates/{name}/builds/{build}", tag = "templates",
    params(("name" = String, Path, description = "A name or an id"), ("build" = BuildId, Path)),
    responses((status = 200, body = Build), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn build(
    State(app): State<App>,
    Key(owner): Key,
    Path((name, build)): Path<(String, String)>,
) -> ApiResult<axum::Json<Build>> {
    let row = app.builds.build(&owner, &name, &build.parse()?).await?;
    Ok(axum::Json(to_api(&row)))
}

/// Asks a build that is under way to end.
#[utoipa::path(delete, path = "/v1/templates/{name}/builds/{build}", tag = "templates",
    params(("name" = String, Path, description = "A name or an id"), ("build" = BuildId, Path)),
    responses((status = 202), (status = 404), (status = 409)), security(("api_key" = []), ("bearer" = [])))]
pub async fn cancel(
    State(app): State<App>,
    Key(owner): Key,
    Path((name, build)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    app.builds.cancel(&owner, &name, &build.parse()?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A build's log as server-sent events: `log` with a line each, then `end` with the build. Reading along is reading to
/// the end. `Last-Event-ID` goes on after that line.
#[utoipa::path(get, path = "/v1/templates/{name}/builds/{build}/logs", tag = "templates",
    params(("name" = String, Path, description = "A name or an id"), ("build" = BuildId, Path),
        ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = BuildLogLine), (status = 404)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn logs(
    State(app): State<App>,
    Key(owner): Key,
    Path((name, build)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let id: BuildId = build.parse()?;
    app.builds.build(&owner, &name, &id).await?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let from = last.map_or(0, |last: i64| last.saturating_add(1));
    let state = (app, owner, name, id, from, false);
    let stream = futures::stream::unfold(state, |(app, owner, name, id, from, over)| async move {
        if over {
            return None;
        }
        let mut idle = 0;
        loop {
            // The row first: what is written before it says that it is over is all there is.
            let Ok(row) = app.builds.build(&owner, &name, &id).await else { return None };
            let build = to_api(&row);
            let Ok(rows) = crate::builds::lines::list(&app.db, &id, from, LINES).await else { return None };
            let full = rows.len() as i64 == LINES;
            let next = rows.last().map_or(from, |row| row.seq + 1);
            let mut text = String::new();
            for row in rows {
                text.push_str(&format!("id: {}\n", row.seq));
                text.push_str(&event("log", &line(row)));
            }
            let over = build.status.is_over() && !full;
            if over {
                text.push_str(&event("end", &build));
            } else if text.is_empty() {
                if app.shutdown.is_cancelled() {
                    return None;
                }
                idle += 1;
                if idle % 75 != 0 {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                text.push_str(": still building\n\n");
            }
            return Some((Ok::<_, std::io::Error>(Bytes::from(text)), (app, owner, name, id, next, over)));
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn event(name: &str, data: &impl serde::Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

/// Uploads the files that `COPY` takes from: a tar archive, gzipped or not, under a hash that the client chooses. It is
/// unpacked in a build's sandbox alone. Kept for a day.
#[utoipa::path(put, path = "/v1/templates/files/{hash}", tag = "templates", params(("hash" = String, Path)),
    request_body(content_type = "application/octet-stream"), responses((status = 204), (status = 413)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn upload(
    State(app): State<App>,
    Key(owner): Key,
    Path(hash): Path<String>,
    body: Body,
) -> ApiResult<StatusCode> {
    receive(&app, &owner.team, &hash, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keeps the files of a `COPY` as they come.
pub async fn receive(app: &App, team: &TeamId, hash: &str, body: Body) -> ApiResult<()> {
    check_hash("hash", hash)?;
    let draft = app.layers.objects().temporary().map_err(ApiError::internal)?;
    let mut file = tokio::fs::File::from_std(draft.reopen().map_err(ApiError::internal)?);
    let (mut chunks, mut length) = (body.into_data_stream(), 0_u64);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid("body", "the upload broke off").with_source(error))?;
        length += chunk.len() as u64;
        if length > MAX_FILES {
            let message = format!("the files may have at most {MAX_FILES} bytes");
            return Err(ApiError::new(ErrorCode::TooLarge, message).with_detail("limit_bytes", MAX_FILES));
        }
        file.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    file.sync_all().await.map_err(ApiError::internal)?;
    let key = Builds::context_key(team, hash);
    app.layers.objects().keep_files(draft, &key).await.map_err(ApiError::internal)
}

/// Whether files of this hash were uploaded.
#[utoipa::path(get, path = "/v1/templates/files/{hash}", tag = "templates", params(("hash" = String, Path)),
    responses((status = 204), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn uploaded(State(app): State<App>, Key(owner): Key, Path(hash): Path<String>) -> ApiResult<StatusCode> {
    if is_there(&app, &owner.team, &hash).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("upload"))
    }
}

/// Whether files of this hash wait for a `COPY` of the team's.
pub async fn is_there(app: &App, team: &TeamId, hash: &str) -> ApiResult<bool> {
    check_hash("hash", hash)?;
    let key = Builds::context_key(team, hash);
    app.layers.objects().has_files(&key).await.map_err(ApiError::internal)
}

/// Lists the platform's templates and the team's own, oldest first.
#[utoipa::path(get, path = "/v1/templates", tag = "templates", params(PageQuery),
    responses((status = 200, body = Page<Template>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Template>>> {
    let (limit, after) = (query.limit()?, query.cursor()?);
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let rows = store::list(&app.db, "template", &owner.team, after, limit + 1).await?;
    let cursor = |row: &store::Template| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, |row| row.to_api())))
}

/// One template, by its name or its id. Another team's is found if it is public: by its id, or by its team's slug, a slash
/// and its name, which is what it is called here.
#[utoipa::path(get, path = "/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "A name or an id")),
    responses((status = 200, body = Template), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn get(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<axum::Json<Template>> {
    let found = store::usable(&app.db, &name, &owner.team).await?;
    found.map(|template| axum::Json(template.to_api())).ok_or_else(|| ApiError::not_found("template"))
}
