//! Builds as E2B's older command line asks for them: a template and a build are asked for, an image is pushed under their
//! names (`http/registry`), then the build is begun. Its Dockerfile was carried out by the client's own Docker.

use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::names;
use super::template_wire as wire;
use super::templates::{self, Known};
use crate::app::App;
use crate::builds::recipe::{From, Recipe};
use crate::builds::{BuildError, DEFAULT_TAG, NewBuild, Target};
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Json;
use crate::http::validate;
use crate::registry::RegistryError;
use crate::sandboxes::Owner;

type Asked = ApiResult<(StatusCode, axum::Json<wire::Template>)>;

/// Where its images are pushed: a repository for each template, a tag for each build.
fn repository(template: &str) -> String {
    format!("e2b/custom-envs/{template}")
}

/// Asks for a build, of a template that is made when there is none of this name.
pub async fn create(State(app): State<App>, Key(owner): Key, Json(request): Json<wire::Old>) -> Asked {
    let target = match &request.alias {
        Some(name) => names::target(&app, &owner, "alias", name).await?,
        None => Some(Target { name: format!("template-{}", hex::encode(rand::random::<[u8; 5]>())), tag: None }),
    };
    let target = target.ok_or_else(|| ApiError::forbidden("this namespace is not your team's"))?;
    asked(&app, &owner, target, request).await
}

/// Asks for a build of a template that is there.
pub async fn again(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Json(request): Json<wire::Old>,
) -> Asked {
    let row = templates::found(&app, &owner, &name).await?;
    if row.team_id.is_none() {
        return Err(BuildError::Platform(row.name).into());
    }
    let mut tag = None;
    if let Some(alias) = &request.alias {
        let target = names::wanted(&app, &owner, alias).await?;
        if target.name != row.name {
            return Err(ApiError::invalid(
                "alias",
                format!("the template is called `{}`, and keeps its name", row.name),
            ));
        }
        tag = target.tag;
    }
    asked(&app, &owner, Target { name: row.name, tag }, request).await
}

async fn asked(app: &App, owner: &Owner, target: Target, request: wire::Old) -> Asked {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let recipe = Recipe {
        start_cmd: some(request.start_cmd),
        ready_cmd: some(request.ready_cmd),
        // What it is pushed as is known when the build is.
        ..Recipe::new(From::Pushed { repository: repository("none"), version: DEFAULT_TAG.to_owned() })
    };
    recipe.check().map_err(|problem| ApiError::invalid("startCmd", problem))?;
    let new = NewBuild {
        name: target.name.clone(),
        tags: vec![target.tag().to_owned()],
        recipe,
        login: None,
        vcpus: request.cpu_count.map(|value| validate::within("cpuCount", value, validate::VCPUS)).transpose()?,
        memory_mb: request
            .memory_mb
            .map(|value| validate::within("memoryMB", value, validate::MEMORY_MB))
            .transpose()?,
        disk_mb: None,
    };
    let (template, build) = app.builds.reserve(owner, new, request.public).await?;
    let mut shown = Known::of(app, owner).await?.shown(&template);
    // Not another one that was asked for at the same time.
    shown.build_id = names::uuid_of(&build.id.0);
    Ok((StatusCode::ACCEPTED, axum::Json(shown)))
}

/// Begins a build with the image that was pushed for it.
pub async fn start(
    State(app): State<App>,
    Key(owner): Key,
    Path((template, build)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let (name, id) = (names::wanted(&app, &owner, &template).await?.name, names::build(&build)?);
    let row = app.builds.build(&owner, &name, &id).await?;
    let repository = repository(row.template_id.as_str());
    let tag = names::uuid_of(&row.id);
    let stored = match app.registry.manifest(&owner.team, &repository, &tag).await {
        Err(RegistryError::NoManifest) => {
            let message = format!("push the build's image as {repository}:{tag} first");
            return Err(ApiError::invalid("buildID", message));
        }
        stored => stored?,
    };
    let asked = row.spec.0;
    let recipe = Recipe {
        start_cmd: asked.start_cmd,
        ready_cmd: asked.ready_cmd,
        as_user: true,
        ..Recipe::new(From::Pushed { repository, version: stored.digest })
    };
    app.builds.begin(&owner, &name, &id, recipe, None).await?;
    Ok(StatusCode::ACCEPTED)
}
