//! What a path may call a sandbox: `i` and 20 characters, or our own `sb-…`, with an older SDK's `-{client}` behind it.

use atoll_model::{ErrorCode, SandboxId};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::app::App;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::path_parameter;
use crate::sandboxes::{Listed, Owner};

/// A sandbox of the caller's team, named in the path.
pub struct Sandbox {
    pub owner: Owner,
    pub id: SandboxId,
    /// As the path has it.
    asked_for: String,
}

impl FromRequestParts<App> for Sandbox {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let Key(owner) = Key::from_request_parts(parts, app).await?;
        let asked_for = path_parameter(parts, app, "id").await?;
        let id = parse(&asked_for)?.ok_or_else(|| missing(&asked_for))?;
        Ok(Self { owner, id, asked_for })
    }
}

/// A sandbox's id in any of its forms. None for one that nobody here has: E2B's clients send any letters and digits, and
/// take it for a sandbox that is gone.
///
/// # Errors
/// When it is no id at all.
pub fn parse(text: &str) -> ApiResult<Option<SandboxId>> {
    let without_client = text.split_once('-').map_or(text, |(id, _client)| id);
    if let Some(id) = text.parse().ok().or_else(|| without_client.parse().ok()) {
        return Ok(Some(id));
    }
    let letters = without_client.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if without_client.is_empty() || !letters {
        return Err(ApiError::invalid("sandboxID", "Invalid sandbox ID"));
    }
    Ok(None)
}

/// The words that E2B's SDKs show.
fn missing(asked_for: &str) -> ApiError {
    let shown: String = asked_for.chars().take(80).collect();
    let text = format!("Sandbox \"{shown}\" doesn't exist or you don't have access to it");
    ApiError::new(ErrorCode::NotFound, text)
}

impl Sandbox {
    /// The sandbox, if it has not come to its end.
    pub async fn find(&self, app: &App) -> ApiResult<Listed> {
        let found = app.sandboxes.listed(&self.owner.team, &self.id).await?;
        found.filter(|listed| !listed.record.status().is_final()).ok_or_else(|| self.missing())
    }

    /// That there is none of this name.
    pub fn missing(&self) -> ApiError {
        missing(&self.asked_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_known_by_both_forms_of_its_id_and_an_old_clients_suffix_is_ignored() {
        let id = SandboxId::new();
        for text in [id.to_string(), id.dns_label(), format!("{}-atoll", id.dns_label())] {
            assert_eq!(parse(&text).unwrap().as_ref(), Some(&id), "{text}");
        }
        for text in ["i", "nope", "i123-x", "sb-short", "non-existing-sandbox"] {
            assert_eq!(parse(text).unwrap(), None, "{text}");
        }
        for text in ["", "-", "-x", "Nope", "a_b", "a.b", "é"] {
            assert_eq!(parse(text).unwrap_err().code, ErrorCode::InvalidRequest, "{text}");
        }
    }
}
