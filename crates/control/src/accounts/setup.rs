//! The first admin: made once, on an installation that has nobody yet. Either by the program itself (`atoll up`), or by
//! whoever holds the setup token that the server prints; never by whoever comes first over the network.

use atoll_model::{TeamId, UserId};
use rand::Rng;
use rand::distr::Alphanumeric;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::password::{self, HashError};
use super::session::Visit;
use super::{Accounts, LoginError, SignedIn, rate, signup, store};
use crate::api_keys::{self, NewKey};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, settings};

/// Where the hash of the current setup token is kept.
const SETTING: &str = "setup_token_hash";
/// Of the first admin, and of their team.
const NAME: &str = "Admin";
const TEAM: &str = "Default";
const SLUG: &str = "default";

/// What the first admin needs to know; shown once.
pub struct FirstAdmin {
    pub user_id: UserId,
    pub team_id: TeamId,
    pub email: String,
    pub password: SecretString,
    pub api_key: SecretString,
}

/// Why something could not be written down.
pub type Unkept = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The token is not the one that was printed last, or somebody has an account already.
    #[error("the setup token is not valid")]
    Refused,
    #[error("a password must have {} to {} characters", password::MIN_LENGTH, password::MAX_LENGTH)]
    Password,
    /// What the admin needs to know could not be written down.
    #[error("the first admin's credentials could not be kept: {0}")]
    Unkept(Unkept),
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
        self.make_first_admin(email, password, None, |_| Ok(())).await
    }

    /// The same. `keep` writes down what there is to know before the admin is there for good: when it fails, or the program
    /// ends meanwhile, nobody was made, and the next try makes somebody.
    pub async fn first_admin_kept(
        &self,
        email: &str,
        keep: impl FnOnce(&FirstAdmin) -> Result<(), Unkept> + Send,
    ) -> Result<Option<FirstAdmin>, SetupError> {
        self.make_first_admin(email, None, None, keep).await
    }

    /// The same; `origin` is where they are who make themselves one.
    async fn make_first_admin(
        &self,
        email: &str,
        password: Option<SecretString>,
        origin: Option<&Origin>,
        keep: impl FnOnce(&FirstAdmin) -> Result<(), Unkept> + Send,
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
        if !store::insert_first_user(&mut tx, &user_id, &email, NAME, &hash, now).await? {
            return Ok(None);
        }
        store::insert_team(&mut tx, &team_id, TEAM, SLUG, &user_id, now).await?;
        let nowhere = Origin::default();
        let (actor, origin) = match origin {
            Some(origin) => (Actor::User(user_id.clone()), origin),
            None => (Actor::System, &nowhere),
        };
        let entry = Entry {
            team: Some(&team_id),
            actor: &actor,
            origin,
            action: "user.create",
            target_kind: "user",
            target_id: Some(user_id.as_str()),
            result: "ok",
            details: json!({ "after": { "email": email, "name": NAME, "is_admin": true } }),
        };
        audit::record(&mut tx, now, &entry).await?;
        signup::note_team(&mut tx, &team_id, (TEAM, SLUG, &user_id), (&actor, origin), now).await?;
        let new = NewKey::unlimited(&team_id, "First key", Some(&user_id));
        let made = api_keys::insert(&mut tx, &new, &actor, origin, now).await?;
        let first = FirstAdmin { user_id, team_id, email, password, api_key: made.secret };
        keep(&first).map_err(SetupError::Unkept)?;
        crate::failpoint!("control::setup::kept");
        tx.commit().await?;
        Ok(Some(first))
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
        let address = visit.origin.address.as_deref();
        let limits: Vec<_> = address.map(|it| rate::SETUP_ADDRESS.of_address(it)).into_iter().collect();
        if let Some(wait) = limits.iter().find_map(|limit| self.rates.blocked(limit, self.clock.now())) {
            return Err(LoginError::TooMany(wait).into());
        }
        let expected = settings::get(&self.db, SETTING).await?;
        let good = expected.is_some_and(|it| bool::from(it.as_bytes().ct_eq(hash_of(token).as_bytes())));
        let made = if good {
            self.make_first_admin(email, Some(password.clone()), Some(visit.origin), |_| Ok(())).await?
        } else {
            None
        };
        if made.is_none() {
            self.take_attempts(&limits).await?;
            self.note_setup_refusal(visit.origin).await?;
            return Err(SetupError::Refused);
        }
        Ok(self.login(email, password, visit).await?)
    }

    async fn note_setup_refusal(&self, origin: &Origin) -> Result<(), DbError> {
        let entry = Entry {
            team: None,
            actor: &Actor::System,
            origin,
            action: "installation.setup",
            target_kind: "installation",
            target_id: None,
            result: "unauthorized",
            details: json!({}),
        };
        audit::record_alone(&self.db, self.clock.now(), &entry).await
    }
}

fn random_text(length: usize) -> SecretString {
    let text: String = rand::rng().sample_iter(&Alphanumeric).take(length).map(char::from).collect();
    text.into()
}

fn hash_of(token: &SecretString) -> String {
    hex::encode(Sha256::digest(token.expose_secret()))
}
