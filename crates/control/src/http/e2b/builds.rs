//! Builds of templates in E2B's words: files are uploaded, the build is begun, its log is read along.

use atoll_model::BuildId;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::{Value, json};

use super::template_wire::{self as wire, Registry};
use super::{is_by_host, names, template_wire};
use crate::app::App;
use crate::builds::lines::{self, Excerpt, LEVELS, LogRow};
use crate::builds::recipe::{From, Recipe, Step};
use crate::builds::store::BuildRow;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Pairs};
use crate::http::registry::OwnNames;
use crate::http::site::Site;
use crate::http::{templates, validate};
use crate::oci::{Login, Reference};
use crate::sandboxes::Owner;
use crate::templates::store as rows;

/// Lines in one answer.
const MAX_LINES: i64 = 100;
/// Images that stand for the platform's own base.
const BASE_IMAGES: [&str; 2] = ["e2bdev/base", "e2bdev/base:latest"];
const BASE: &str = "base";

/// Where the files of a `COPY` go. They are uploaded without a key, by whoever has the address.
pub async fn files(
    State(app): State<App>,
    Key(owner): Key,
    Path((template, hash)): Path<(String, String)>,
    parts: Parts,
) -> ApiResult<(StatusCode, axum::Json<wire::FileUpload>)> {
    let target = names::wanted(&app, &owner, &template).await?;
    app.builds.template(&owner, &target.name).await?;
    let present = templates::is_there(&app, &owner.team, &hash).await?;
    let ticket = app.builds.upload_ticket(&owner, &hash).await?;
    let site = Site::of(&parts, &app.config);
    let scheme = if site.https { "https" } else { "http" };
    let below = if is_by_host(&app, &parts.uri, &parts.headers) { "" } else { "/e2b" };
    let ticket = secrecy::ExposeSecret::expose_secret(&ticket);
    let url = format!("{scheme}://{}{below}/uploads/{ticket}", site.authority);
    Ok((StatusCode::CREATED, axum::Json(wire::FileUpload { present, url })))
}

/// Takes an archive of files.
pub async fn upload(State(app): State<App>, Path(ticket): Path<String>, body: Body) -> ApiResult<StatusCode> {
    let (team, hash) = app.builds.by_ticket(&ticket).await?;
    templates::receive(&app, &team, &hash, body).await?;
    Ok(StatusCode::OK)
}

/// Begins a build that was asked for before.
pub async fn start(
    State(app): State<App>,
    Key(owner): Key,
    Path((template, build)): Path<(String, String)>,
    own: OwnNames,
    Json(start): Json<wire::Start>,
) -> ApiResult<StatusCode> {
    let (name, id) = (names::wanted(&app, &owner, &template).await?.name, names::build(&build)?);
    let (mut recipe, login) = recipe(&app, &owner, start).await?;
    own.apply(&mut recipe);
    app.builds.begin(&owner, &name, &id, recipe, login).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The same in our own words, checked.
async fn recipe(app: &App, owner: &Owner, start: wire::Start) -> ApiResult<(Recipe, Option<Login>)> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (from, field) = match (some(start.from_image), some(start.from_template)) {
        (Some(image), None) if BASE_IMAGES.contains(&image.as_str()) => (From::Template(BASE.to_owned()), "fromImage"),
        (Some(image), None) => {
            image.parse::<Reference>().map_err(|error| ApiError::invalid("fromImage", error.to_string()))?;
            (From::Image(image), "fromImage")
        }
        (None, Some(template)) => {
            let name = names::with_namespace_of_others(app, owner, &template).await?;
            if name.contains('/') && rows::resolve(&app.db, &name, &owner.team).await?.is_none() {
                return Err(names::missing(&template));
            }
            (From::Template(name), "fromTemplate")
        }
        _ => return Err(ApiError::invalid("fromImage", "say what to build from: an image, or else a template")),
    };
    let steps = start.steps.unwrap_or_default();
    let fresh_from = steps.iter().position(|step| step.force == Some(true));
    let steps = steps.into_iter().enumerate().map(|(number, step)| translated(number, step));
    let recipe = Recipe {
        steps: steps.collect::<ApiResult<_>>()?,
        start_cmd: some(start.start_cmd),
        ready_cmd: some(start.ready_cmd),
        force: start.force.unwrap_or(false),
        fresh_from,
        as_user: true,
        ..Recipe::new(from)
    };
    let wrong = |problem: String| ApiError::invalid(if problem.starts_with("FROM") { field } else { "steps" }, problem);
    recipe.check().map_err(wrong)?;
    Ok((recipe, start.from_image_registry.map(login).transpose()?))
}

fn translated(number: usize, step: wire::Step) -> ApiResult<Step> {
    let wrong = |problem: &str| Err(ApiError::invalid(format!("steps[{number}].args"), problem.to_owned()));
    let mut args = step.args.unwrap_or_default().into_iter();
    let kind = step.kind.to_ascii_uppercase();
    let mut next = || args.next().filter(|text| !text.is_empty());
    Ok(match kind.as_str() {
        "RUN" => match next() {
            Some(cmd) => Step::Run { cmd, user: next() },
            None => return wrong("RUN takes a command, and maybe a user"),
        },
        "COPY" | "ADD" => {
            let (Some(source), Some(destination)) = (next(), next()) else {
                return wrong("COPY takes a source and a destination, and maybe an owner and a mode");
            };
            let (owner, mode) = (next(), next());
            let missing = || ApiError::invalid(format!("steps[{number}].filesHash"), "is missing");
            let files = step.files_hash.ok_or_else(missing)?;
            Step::Copy { source, destination, owner, mode, files }
        }
        "ENV" => {
            let all: Vec<String> = args.collect();
            if all.is_empty() || !all.len().is_multiple_of(2) {
                return wrong("ENV takes names, each followed by its value");
            }
            let variables = all.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            Step::Env { variables }
        }
        "WORKDIR" => match next() {
            Some(path) => Step::Workdir { path },
            None => return wrong("WORKDIR takes a path"),
        },
        "USER" => match next() {
            Some(name) => Step::User { name, sudo: next().is_some_and(|sudo| sudo == "true") },
            None => return wrong("USER takes a name"),
        },
        _ => {
            let message = "must be RUN, COPY, ENV, WORKDIR or USER";
            return Err(ApiError::invalid(format!("steps[{number}].type"), message));
        }
    })
}

fn login(registry: Registry) -> ApiResult<Login> {
    let (username, password) = match registry {
        Registry::Password { username, password } => (username, password),
        // Google's registries take a service account's key as a password.
        Registry::Gcp { service_account_json: Value::String(text) } => ("_json_key".to_owned(), text),
        Registry::Gcp { service_account_json } => ("_json_key".to_owned(), service_account_json.to_string()),
        Registry::Aws {} => {
            let message = "give what `aws ecr get-login-password` answers as the password of the user AWS instead";
            return Err(ApiError::invalid("fromImageRegistry.type", message));
        }
    };
    validate::line("fromImageRegistry.username", &username, 256)?;
    if password.is_empty() || password.len() > 16_384 {
        return Err(ApiError::invalid("fromImageRegistry.password", "must have 1 to 16384 bytes"));
    }
    Ok(Login { username, password: password.into() })
}

/// How far a build is, with lines of its log from `logsOffset` on.
pub async fn status(
    State(app): State<App>,
    Key(owner): Key,
    Path((template, build)): Path<(String, String)>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<wire::BuildInfo>> {
    let offset = number(&pairs, "logsOffset", i64::MAX)?.unwrap_or(0);
    let excerpt = Excerpt { offset, ..excerpt(&pairs)? };
    // The row first: what is written before it says that it is over is all there is.
    let row = find(&app, &owner, &template, &build).await?;
    let lines = lines::excerpt(&app.db, &row.id.0, &excerpt).await?;
    let log_entries: Vec<_> = lines.into_iter().map(entry).collect();
    let reason = row.reason.clone().filter(|_| status_of(&row) == "error");
    Ok(axum::Json(wire::BuildInfo {
        template_id: row.template_id.to_string(),
        build_id: names::uuid_of(&row.id.0),
        status: status_of(&row),
        logs: log_entries.iter().map(|entry| entry.message.clone()).collect(),
        log_entries,
        reason: reason.map(|message| template_wire::Reason { message, step: row.step.clone() }),
    }))
}

/// Lines of a build's log, before or after a moment.
pub async fn logs(
    State(app): State<App>,
    Key(owner): Key,
    Path((template, build)): Path<(String, String)>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Value>> {
    let cursor = number(&pairs, "cursor", i64::MAX)?.map(Millis);
    let mut excerpt = excerpt(&pairs)?;
    excerpt.backward = text(&pairs, "direction") == Some("backward");
    if excerpt.backward {
        excerpt.until = cursor;
    } else {
        excerpt.from = cursor;
    }
    let row = find(&app, &owner, &template, &build).await?;
    let lines = lines::excerpt(&app.db, &row.id.0, &excerpt).await?;
    Ok(axum::Json(json!({ "logs": lines.into_iter().map(entry).collect::<Vec<_>>() })))
}

async fn find(app: &App, owner: &Owner, template: &str, build: &str) -> ApiResult<BuildRow> {
    let (name, id): (String, BuildId) = (names::wanted(app, owner, template).await?.name, names::build(build)?);
    Ok(app.builds.build(owner, &name, &id).await?)
}

fn text<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn number(pairs: &[(String, String)], name: &'static str, most: i64) -> ApiResult<Option<i64>> {
    let parse = |text: &str| text.parse().ok().filter(|number| (0..=most).contains(number));
    let wrong = || ApiError::invalid(name, format!("must be a whole number from 0 to {most}"));
    text(pairs, name).map(|text| parse(text).ok_or_else(wrong)).transpose()
}

fn excerpt(pairs: &[(String, String)]) -> ApiResult<Excerpt> {
    let least = match text(pairs, "level") {
        None => 0,
        Some(level) => {
            let wrong = || ApiError::invalid("level", "must be debug, info, warn or error");
            LEVELS.iter().position(|known| *known == level).ok_or_else(wrong)?
        }
    };
    Ok(Excerpt { least, limit: number(pairs, "limit", MAX_LINES)?.unwrap_or(MAX_LINES), ..Excerpt::default() })
}

fn entry(row: LogRow) -> wire::LogEntry {
    let level = LEVELS.into_iter().find(|level| *level == row.level).unwrap_or("info");
    wire::LogEntry { timestamp: row.at.to_utc(), message: row.message, level, step: row.step }
}

/// A build's state, of the four that E2B knows.
pub fn status_of(row: &BuildRow) -> &'static str {
    match row.status.as_str() {
        "waiting" => "waiting",
        "building" => "building",
        "ready" => "ready",
        _ => "error",
    }
}
