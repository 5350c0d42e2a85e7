//! Tokens of sandboxes' identities come from control, with the host's own token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::control::HttpControl;
use super::credentials::CredentialStore;
use crate::network::{Identities, Identity, Token};

pub struct ControlIdentities {
    pub control: Arc<HttpControl>,
    pub store: Arc<CredentialStore>,
}

impl fmt::Debug for ControlIdentities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlIdentities").finish_non_exhaustive()
    }
}

#[async_trait]
impl Identities for ControlIdentities {
    async fn token(&self, identity: &Identity) -> Result<Token, String> {
        let stored = self.store.load().ok_or("this host is not enrolled")?;
        let credentials = &stored.current.credentials;
        let answer = self.control.identity_token(&credentials.host_id, &credentials.access_token, identity).await;
        match answer {
            Ok(made) => Ok(Token { text: made.token, ttl: Duration::from_secs(made.ttl_sec) }),
            Err(error) => Err(format!("there is no token of the identity `{}`: {error}", identity.name)),
        }
    }
}
