//! By which names an image's reference means what was pushed to this server: the name that the request came to, the public
//! address, and `docker.{domain}`, where E2B's clients push.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::app::App;
use crate::builds::recipe::{From, Recipe};
use crate::http::error::{ApiError, ApiResult};
use crate::http::ports::target::without_port;
use crate::http::site::{Origin, Site};
use crate::oci::Reference;

/// The names of a request's server.
pub struct OwnNames {
    /// With ports, as references have them.
    whole: Vec<String>,
    /// Whatever the port.
    name: String,
}

impl FromRequestParts<App> for OwnNames {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let public = app.config.public_url.as_deref().and_then(Origin::parse).map(|origin| origin.authority);
        let whole = std::iter::once(Site::of(parts, &app.config).authority).chain(public).collect();
        Ok(Self { whole, name: format!("docker.{}", without_port(&app.config.domain)) })
    }
}

impl OwnNames {
    fn are(&self, registry: &str) -> bool {
        self.whole.iter().any(|own| own.eq_ignore_ascii_case(registry))
            || without_port(registry).eq_ignore_ascii_case(&self.name)
    }

    /// A recipe that begins with an image of this server begins with what the team has pushed.
    pub fn apply(&self, recipe: &mut Recipe) {
        let From::Image(text) = &recipe.from else { return };
        let Ok(reference) = text.parse::<Reference>() else { return };
        if self.are(&reference.registry) {
            recipe.from = From::Pushed { repository: reference.repository, version: reference.version };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_this_server_is_told_from_others() {
        let own = OwnNames {
            whole: vec!["127.0.0.1:7420".to_owned(), "atoll.lan".to_owned()],
            name: "docker.sbx.test".to_owned(),
        };
        let of = |image: &str| {
            let mut recipe = Recipe::new(From::Image(image.to_owned()));
            own.apply(&mut recipe);
            recipe.from
        };
        let pushed = |repository: &str, version: &str| From::Pushed {
            repository: repository.to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(of("127.0.0.1:7420/app"), pushed("app", "latest"));
        assert_eq!(of("docker.sbx.test:8443/a/b:1"), pushed("a/b", "1"));
        assert_eq!(of("atoll.lan/a:1"), pushed("a", "1"));
        for other in ["debian:12", "127.0.0.1:7421/app", "sbx.test/app", "atoll.lan:1/app"] {
            assert_eq!(of(other), From::Image(other.to_owned()));
        }
    }
}
