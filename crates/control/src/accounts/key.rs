//! Recognises API keys, and remembers what they may act on for as long as nobody's rights have changed.

use std::sync::Arc;

use super::Accounts;
use crate::api_keys::{self, LiveKey};
use crate::db::DbError;

impl Accounts {
    /// What a key may act on, if `text` is a key that exists and has not expired. One that was deleted a moment ago, at
    /// whichever replica, is none any more: see [`Rights`](super::Rights).
    pub async fn authenticate_key(&self, text: &str) -> Result<Option<Arc<LiveKey>>, DbError> {
        let Some(digest) = api_keys::digest(text) else { return Ok(None) };
        let version = self.rights.version().await?;
        let now = self.clock.now();
        if let Some(key) = self.rights.key(version, &digest, now) {
            return Ok(Some(key));
        }
        let Some(key) = api_keys::by_digest(&self.db, &digest, now).await?.map(Arc::new) else { return Ok(None) };
        self.rights.remember_key(version, digest, &key);
        Ok(Some(key))
    }
}
