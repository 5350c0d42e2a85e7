//! GitHub: OAuth with PKCE, and two questions of its API about who that was.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{Begun, Proven, ProviderError};
use crate::outbound;

#[derive(Debug, Clone)]
pub struct GithubSettings {
    pub client_id: String,
    pub client_secret: SecretString,
    /// `https://github.com`, or a GitHub Enterprise.
    pub web_url: String,
    /// `https://api.github.com`, or `https://HOST/api/v3`.
    pub api_url: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Email {
    email: String,
    primary: bool,
    verified: bool,
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

impl GithubSettings {
    pub fn begin(&self, state: &str, redirect: &str) -> Result<Begun, ProviderError> {
        let verifier = random();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier));
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", "read:user user:email")
            .append_pair("state", state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        let url = format!("{}/login/oauth/authorize?{query}", self.web_url.trim_end_matches('/'));
        Ok(Begun { url, verifier, nonce: String::new() })
    }

    pub async fn finish(&self, code: &str, begun: &Begun, redirect: &str) -> Result<Proven, ProviderError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.expose_secret())
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect)
            .append_pair("code_verifier", &begun.verifier)
            .finish();
        let url = format!("{}/login/oauth/access_token", self.web_url.trim_end_matches('/'));
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.into_bytes());
        let answer: TokenAnswer = ask(request).await?;
        let token = answer.access_token.ok_or_else(|| {
            ProviderError::Refused(answer.error.unwrap_or_else(|| "there is no token in its answer".to_owned()))
        })?;
        let user: User = ask(self.question("/user", &token)).await?;
        let emails: Vec<Email> = ask(self.question("/user/emails?per_page=100", &token)).await?;
        let email = emails.into_iter().find(|email| email.primary && email.verified);
        Ok(Proven {
            subject: user.id.to_string(),
            email: email.map(|email| email.email.to_lowercase()),
            name: user.name.filter(|name| !name.trim().is_empty()).or(Some(user.login)),
        })
    }

    fn question(&self, path: &str, token: &str) -> http::Result<Request<Vec<u8>>> {
        Request::builder()
            .uri(format!("{}{path}", self.api_url.trim_end_matches('/')))
            .header(ACCEPT, "application/vnd.github+json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Vec::new())
    }
}

async fn ask<T: DeserializeOwned>(request: http::Result<Request<Vec<u8>>>) -> Result<T, ProviderError> {
    let request = request.map_err(|error| ProviderError::Settings(error.to_string()))?;
    let answer = outbound::send(request).await?;
    if !answer.status().is_success() {
        return Err(ProviderError::Refused(format!("GitHub answered {}", answer.status())));
    }
    serde_json::from_slice(answer.body())
        .map_err(|error| ProviderError::Ask(format!("its answer is not valid: {error}")))
}
