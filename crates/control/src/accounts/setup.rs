//! The first admin: made once, on an installation that has nobody yet, never by whoever comes first over the network.

use atoll_model::{TeamId, UserId};
use rand::Rng;
use rand::distr::Alphanumeric;
use secrecy::SecretString;

use super::password::{self, HashError};
use super::{Accounts, store};
use crate::api_keys::{self, NewKey};
use crate::audit::{Actor, Origin};
use crate::db::DbError;

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
        let password = password.unwrap_or_else(|| {
            let text: String = rand::rng().sample_iter(&Alphanumeric).take(24).map(char::from).collect();
            text.into()
        });
        let hash = password::hash(&self.hashing, password.clone()).await?;
        let (user_id, team_id, now) = (UserId::new(), TeamId::new(), self.clock.now());
        let email = email.trim().to_lowercase();
        let mut tx = self.db.begin().await?;
        // Asked again inside the transaction: two programs that start at once end with one admin.
        if !store::insert_first_user(&mut tx, &user_id, &email, "Admin", &hash, now).await? {
            return Ok(None);
        }
        store::insert_team(&mut tx, &team_id, "Default", "default", &user_id, now).await?;
        let new = NewKey { team: &team_id, name: "First key", created_by: Some(&user_id) };
        let made = api_keys::insert(&mut tx, &new, &Actor::System, &Origin::default(), now).await?;
        tx.commit().await?;
        Ok(Some(FirstAdmin { user_id, team_id, email, password, api_key: made.secret }))
    }
}
