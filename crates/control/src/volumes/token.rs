//! Tokens for what is in one volume, good for a day: E2B's SDKs get one with the volume, and send nothing else with
//! requests for its files.

use std::time::Duration;

use atoll_model::{TeamId, VolumeId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::db::Millis;
use crate::signing::{JwtKeys, SigningError};

const TYPE: &str = "volume";
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Which volume, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub sub: VolumeId,
    pub team: TeamId,
}

/// # Errors
/// When it can't be signed.
pub fn issue(keys: &JwtKeys, claims: &Claims, now: Millis) -> Result<SecretString, SigningError> {
    keys.sign_as(TYPE, claims, now, LIFETIME).map(Into::into)
}

/// What a token says that we signed and that is not over; nothing of any other text.
///
/// # Errors
/// The database's.
pub async fn verify(keys: &JwtKeys, token: &str, now: Millis) -> Result<Option<Claims>, SigningError> {
    let verified = keys.verify_as::<Claims>(TYPE, token, now).await?;
    Ok(verified.filter(|verified| verified.expires_at > now).map(|verified| verified.claims))
}
