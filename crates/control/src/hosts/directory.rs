//! Where hosts are: a small cache over the database, for the fleet.
//!
//! An entry lives for a moment only, so that what other replicas change is seen soon; what this replica changes is
//! forgotten here at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_model::HostId;
use atoll_model::api::hosts::TUNNEL_ADDRESS;

use super::{store, tunnels};
use crate::db::{Db, DbError};
use crate::fleet::{FleetError, HostDirectory, HostLocation};
use crate::pki::HostKey;

const LIFETIME: Duration = Duration::from_secs(2);
/// Beyond this the oldest knowledge is dropped.
const MAX_ENTRIES: usize = 50_000;

pub struct Directory {
    db: Db,
    known: Mutex<HashMap<HostId, (HostLocation, Instant)>>,
}

impl Directory {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, known: Mutex::default() }
    }

    /// The host moved, was re-enrolled or deleted: ask the database next time.
    pub fn forget(&self, host: &HostId) {
        self.known().remove(host);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<HostId, (HostLocation, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HostDirectory for Directory {
    async fn locate(&self, host: &HostId) -> Result<HostLocation, FleetError> {
        if let Some((location, at)) = self.known().get(host)
            && at.elapsed() < LIFETIME
        {
            return Ok(location.clone());
        }
        let internal = |cause: String| FleetError::Internal {
            host: host.clone(),
            attempted: "find out where it is".to_owned(),
            cause: Arc::from(cause),
        };
        let unread = |error: DbError| {
            let cause = error.to_string();
            if !error.is_away() && !error.is_overload() {
                return internal(cause);
            }
            let attempted = "find out where it is".to_owned();
            FleetError::Unavailable { host: host.clone(), attempted, cause: Arc::from(cause) }
        };
        let row = store::get(&self.db, host).await.map_err(unread)?;
        let unknown = || FleetError::Unknown { host: host.clone() };
        let row = row.ok_or_else(unknown)?;
        let (Some(address), Some(key)) = (row.address, row.public_key) else { return Err(unknown()) };
        let key = HostKey::from_hex(&key).map_err(|error| internal(error.to_string()))?;
        let certificate = row.certificate_fingerprint.unwrap_or_default();
        let tunnel = match address.as_str() {
            TUNNEL_ADDRESS => tunnels::of(&self.db, host).await.map_err(unread)?,
            _ => None,
        };
        let location =
            HostLocation { address, tunnel, since: row.status_changed_at, key_sha256: key.sha256(), certificate };
        let mut known = self.known();
        if known.len() >= MAX_ENTRIES {
            known.retain(|_, (_, at)| at.elapsed() < LIFETIME);
        }
        known.insert(host.clone(), (location.clone(), Instant::now()));
        Ok(location)
    }
}
