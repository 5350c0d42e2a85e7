//! OpenID Connect. The provider's metadata and keys are asked anew for each sign-in: they are rare, and keys rotate.

use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet, EndpointSet, IssuerUrl,
    Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
};
use secrecy::{ExposeSecret, SecretString};

use super::{Begun, Proven, ProviderError};
use crate::outbound;

#[derive(Debug, Clone)]
pub struct OidcSettings {
    /// For people: the text on the button.
    pub name: String,
    /// Its address, as it says of itself.
    pub issuer: String,
    pub client_id: String,
    pub client_secret: SecretString,
}

type Client =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

impl OidcSettings {
    async fn client(&self, redirect: &str) -> Result<Client, ProviderError> {
        let wrong = |error: openidconnect::url::ParseError| ProviderError::Settings(error.to_string());
        let issuer = IssuerUrl::new(self.issuer.clone()).map_err(wrong)?;
        let metadata = CoreProviderMetadata::discover_async(issuer, &outbound::send)
            .await
            .map_err(|error| ProviderError::Ask(chain(&error)))?;
        let secret = ClientSecret::new(self.client_secret.expose_secret().to_owned());
        let client = CoreClient::from_provider_metadata(metadata, ClientId::new(self.client_id.clone()), Some(secret));
        Ok(client.set_redirect_uri(RedirectUrl::new(redirect.to_owned()).map_err(wrong)?))
    }

    pub async fn begin(&self, state: &str, redirect: &str) -> Result<Begun, ProviderError> {
        let client = self.client(redirect).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let state = CsrfToken::new(state.to_owned());
        let (url, _, nonce) = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || state, Nonce::new_random)
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        Ok(Begun { url: url.to_string(), verifier: verifier.secret().clone(), nonce: nonce.secret().clone() })
    }

    pub async fn finish(&self, code: &str, begun: &Begun, redirect: &str) -> Result<Proven, ProviderError> {
        let client = self.client(redirect).await?;
        let answer = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| ProviderError::Settings(error.to_string()))?
            .set_pkce_verifier(PkceCodeVerifier::new(begun.verifier.clone()))
            .request_async(&outbound::send)
            .await
            .map_err(|error| ProviderError::Refused(chain(&error)))?;
        let token = answer.id_token().ok_or_else(|| ProviderError::Unproven("there is no ID token".to_owned()))?;
        let claims = token
            .claims(&client.id_token_verifier(), &Nonce::new(begun.nonce.clone()))
            .map_err(|error| ProviderError::Unproven(error.to_string()))?;
        let verified = claims.email_verified() == Some(true);
        Ok(Proven {
            subject: claims.subject().as_str().to_owned(),
            email: claims.email().filter(|_| verified).map(|email| email.as_str().to_lowercase()),
            name: claims.name().and_then(|name| name.get(None)).map(|name| name.as_str().to_owned()),
        })
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
