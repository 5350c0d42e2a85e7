//! The first admin: made once, on an installation that has nobody yet. Either by the program itself (`atoll up`), or by
//! whoever holds the setup token that the server prints; never by whoever comes first over the network.

use atoll_model::{TeamId, UserId};
use rand::Rng;
use rand::distr::Alphanumeric;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::password::{self, HashError};
use super::session::Visit;
use super::{Accounts, LoginError, SignedIn, store};
use crate::api_keys::{self, NewKey};
use crate::audit::{Actor, Origin};
use crate::db::{DbError, settings};

/// Where the hash of the current setup token is kept.
const SETTING: &str = "setup_token_hash";

/// What the first admin needs to know; shown once.
pub struct FirstAdmin {
    pub user_id: UserId,
    pub team_id: TeamId,
    pub email: String,
    pub password: SecretString,
    pub api_key: SecretString,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The token is not the one that was printed last, or somebody has an account already.
    #[error("the setup token is not valid")]
    Refused,
    #[error("a password must have {} to {} characters", password::MIN_LENGTH, password::MAX_LENGTH)]
    Password,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Accounts {
    /// Whether anybody has an account.
    pub async fn anybody(&self) -> Result<bool, DbError> {
        store::anybody(&self.db).await
    }

    /// Makes the first admin with a team and an API key, if there is no account at all. A password is made up when
    /// none is given.
    pub async fn first_admin(
        &self,
        email: &str,
        password: Option<SecretString>,
    ) -> Result<Option<FirstAdmin>, SetupError> {
        if self.anybody().await? {
            return Ok(None);
        }
        let password = password.unwrap_or_else(|| random_text(24));
        if !password::fits(&password) {
            return Err(SetupError::Password);
        }
        let hash = self.hasher.hash(password.clone()).await?;
        let (user_id, team_id, now) = (UserId::new(), TeamId::new(), self.clock.now());
        let email = email.trim().to_lowercase();
        let mut tx = self.db.begin().await?;
        // Asked again inside the transaction: two programs that start at once end with one admin.
        if !store::insert_first_user(&mut tx, &user_id, &email, "Admin", &hash, now).await? {
            return Ok(None);
        }
        store::insert_team(&mut tx, &team_id, "Default", "default", &user_id, now).await?;
        let new = NewKey::unlimited(&team_id, "First key", Some(&user_id));
        let made = api_keys::insert(&mut tx, &new, &Actor::System, &Origin::default(), now).await?;
        tx.commit().await?;
        Ok(Some(FirstAdmin { user_id, team_id, email, password, api_key: made.secret }))
    }

    /// A new setup token, if there is no account at all. Older ones are worth nothing from then on.
    pub async fn setup_token(&self) -> Result<Option<SecretString>, SetupError> {
        if self.anybody().await? {
            return Ok(None);
        }
        let token = random_text(40);
        settings::set(&self.db, SETTING, &hash_of(&token), self.clock.now()).await?;
        Ok(Some(token))
    }

    /// Makes the first admin for the holder of the setup token, and signs them in.
    pub async fn setup(
        &self,
        token: &SecretString,
        email: &str,
        password: SecretString,
        visit: Visit<'_>,
    ) -> Result<SignedIn, SetupError> {
        let expected = settings::get(&self.db, SETTING).await?.ok_or(SetupError::Refused)?;
        if !bool::from(expected.as_bytes().ct_eq(hash_of(token).as_bytes())) {
            return Err(SetupError::Refused);
        }
        self.first_admin(email, Some(password.clone())).await?.ok_or(SetupError::Refused)?;
        Ok(self.login(email, password, visit).await?)
    }
}

fn random_text(length: usize) -> SecretString {
    let text: String = rand::rng().sample_iter(&Alphanumeric).take(length).map(char::from).collect();
    text.into()
}

fn hash_of(token: &SecretString) -> String {
    hex::encode(Sha256::digest(token.expose_secret()))
}
