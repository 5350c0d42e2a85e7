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
        let id = parse(&asked_for)?;
        Ok(Self { owner, id, asked_for })
    }
}

/// A sandbox's id in any of its forms.
pub fn parse(text: &str) -> ApiResult<SandboxId> {
    let wrong = || ApiError::invalid("sandboxID", "Invalid sandbox ID");
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    text.split_once('-').and_then(|(id, _client)| id.parse().ok()).ok_or_else(wrong)
}

impl Sandbox {
    /// The sandbox, if it has not come to its end.
    pub async fn find(&self, app: &App) -> ApiResult<Listed> {
        let found = app.sandboxes.listed(&self.owner.team, &self.id).await?;
        found.filter(|listed| !listed.record.status().is_final()).ok_or_else(|| self.missing())
    }

    /// The words that E2B's SDKs show.
    pub fn missing(&self) -> ApiError {
        let shown: String = self.asked_for.chars().take(80).collect();
        let text = format!("Sandbox \"{shown}\" doesn't exist or you don't have access to it");
        ApiError::new(ErrorCode::NotFound, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_known_by_both_forms_of_its_id_and_an_old_clients_suffix_is_ignored() {
        let id = SandboxId::new();
        for text in [id.to_string(), id.dns_label(), format!("{}-atoll", id.dns_label())] {
            assert_eq!(parse(&text).unwrap(), id, "{text}");
        }
        for text in ["", "i", "nope", "i123-x", "sb-short"] {
            assert_eq!(parse(text).unwrap_err().code, ErrorCode::InvalidRequest, "{text}");
        }
    }
}
