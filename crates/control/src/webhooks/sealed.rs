//! The secrets of webhooks as they lie in the database: encrypted by the key that is not in it, with the key's name before.

use atoll_model::{TeamId, WebhookId};
use secrecy::SecretString;

use super::store;
use crate::db::{Db, DbError};
use crate::secrets::cipher::{Cipher, OpenError, Place};

/// What a sealed one begins with: `sealed:KEY:VALUE`.
const SEALED: &str = "sealed:";

/// None if the machine has no randomness, which never is.
pub fn seal(cipher: &Cipher, team: &TeamId, hook: &WebhookId, secret: &str) -> Option<String> {
    let value = cipher.seal(Place::Webhook(team, hook), secret)?;
    Some(format!("{SEALED}{}:{value}", cipher.id()))
}

pub fn open(cipher: &Cipher, team: &TeamId, hook: &WebhookId, sealed: &str) -> Result<SecretString, OpenError> {
    let rest = sealed.strip_prefix(SEALED).and_then(|rest| rest.split_once(':'));
    let (key, value) = rest.ok_or(OpenError::Damaged)?;
    cipher.open(Place::Webhook(team, hook), key, value)
}

/// Encrypts secrets from before they were encrypted, and removes what a file would still show of them.
pub async fn seal_plain(db: &Db, cipher: &Cipher) -> Result<(), DbError> {
    let mut sealed = 0;
    loop {
        let rows = store::plain(db).await?;
        if rows.is_empty() {
            break;
        }
        if sealed == 0 {
            store::erase_what_is_replaced(db, true).await?;
        }
        for row in &rows {
            let value = |plain: &str| {
                if plain.starts_with(SEALED) {
                    return Some(plain.to_owned());
                }
                seal(cipher, &row.team_id, &row.id, plain)
            };
            let former = row.former_secret.as_deref().and_then(value);
            let Some(secret) = value(&row.secret) else { continue };
            store::replace_plain(db, row, &secret, former.as_deref()).await?;
        }
        sealed += rows.len();
    }
    if sealed > 0 {
        store::erase_what_is_replaced(db, false).await?;
        tracing::info!(webhooks = sealed, "the secrets of webhooks are encrypted from now on");
    }
    Ok(())
}
