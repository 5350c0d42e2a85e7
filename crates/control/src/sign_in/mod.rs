//! Signing in elsewhere: what is asked of a provider, and what it says about a person. `oidc` speaks OpenID Connect,
//! `github` GitHub's own dialect; both use the authorization code flow with PKCE. Who the person is here is decided in
//! `accounts::elsewhere`.

mod github;
mod oidc;

pub use github::GithubSettings;
pub use oidc::OidcSettings;

use crate::config::ControlConfig;
use crate::outbound::OutboundError;

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("the sign-in provider's address is not valid: {0}")]
    Settings(String),
    #[error("the sign-in provider could not be asked")]
    Reach(#[from] OutboundError),
    #[error("the sign-in provider could not be asked: {0}")]
    Ask(String),
    #[error("the sign-in provider refused: {0}")]
    Refused(String),
    #[error("what the sign-in provider says is not proven: {0}")]
    Unproven(String),
}

/// Where a person is sent, and what is kept until they come back.
pub struct Begun {
    pub url: String,
    pub verifier: String,
    pub nonce: String,
}

/// What a provider says about a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The person's id there; never changes.
    pub subject: String,
    /// An address that the provider has verified.
    pub email: Option<String>,
    pub name: Option<String>,
}

/// A place where people can sign in.
pub enum Provider<'a> {
    Oidc(&'a OidcSettings),
    Github(&'a GithubSettings),
}

impl<'a> Provider<'a> {
    /// The provider with this id, if it is set up.
    #[must_use]
    pub fn find(config: &'a ControlConfig, id: &str) -> Option<Self> {
        Self::all(config).into_iter().find(|provider| provider.id() == id)
    }

    #[must_use]
    pub fn all(config: &'a ControlConfig) -> Vec<Self> {
        let oidc = config.oidc.as_ref().map(Self::Oidc);
        oidc.into_iter().chain(config.github.as_ref().map(Self::Github)).collect()
    }

    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::Oidc(_) => "oidc",
            Self::Github(_) => "github",
        }
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Oidc(settings) => &settings.name,
            Self::Github(_) => "GitHub",
        }
    }

    pub async fn begin(&self, state: &str, redirect: &str) -> Result<Begun, ProviderError> {
        match self {
            Self::Oidc(settings) => settings.begin(state, redirect).await,
            Self::Github(settings) => settings.begin(state, redirect),
        }
    }

    pub async fn finish(&self, code: &str, begun: &Begun, redirect: &str) -> Result<Proven, ProviderError> {
        match self {
            Self::Oidc(settings) => settings.finish(code, begun, redirect).await,
            Self::Github(settings) => settings.finish(code, begun, redirect).await,
        }
    }
}
