//! Which replica holds the connection that a host behind NAT keeps open: one row per host, written by the replica to
//! which it came last.

use std::time::Duration;

use atoll_model::HostId;

use super::{HostChange, HostError, Hosts};
use crate::db::{Db, DbError, During, Millis, on};
use crate::fleet::{RelayTokens, TunnelPlace};

/// How long a replica's word for another one is good.
const RELAY_TOKEN: Duration = Duration::from_secs(60);

/// The tunnel of a host, if one is open.
pub(super) async fn of(db: &Db, host: &HostId) -> Result<Option<TunnelPlace>, DbError> {
    let row: Option<(String, String, Option<String>)> = on!(read db, |c| sqlx::query_as(
        "SELECT connection, replica, advertise FROM host_tunnels WHERE host_id = $1"
    )
    .bind(host.as_str())
    .fetch_optional(c)
    .await)
    .during("look up a host's tunnel")?;
    Ok(row.map(|(connection, replica, advertise)| TunnelPlace { connection, replica, advertise }))
}

async fn keep(db: &Db, host: &HostId, place: &TunnelPlace, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "INSERT INTO host_tunnels (host_id, connection, replica, advertise, opened_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (host_id) DO UPDATE SET connection = excluded.connection, replica = excluded.replica,
             advertise = excluded.advertise, opened_at = excluded.opened_at"
    )
    .bind(host.as_str())
    .bind(&place.connection)
    .bind(&place.replica)
    .bind(place.advertise.as_deref())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note a host's tunnel")
}

impl Hosts {
    /// A host's tunnel has come to this replica.
    ///
    /// # Errors
    /// The database's.
    pub async fn tunnel_opened(&self, host: &HostId, place: &TunnelPlace) -> Result<(), DbError> {
        keep(&self.db, host, place, self.clock.now()).await?;
        self.directory.forget(host);
        // It can be asked for its sandboxes from now on.
        self.announce(HostChange::Returned(host.clone()));
        Ok(())
    }

    /// It has ended. A newer one of the same host stays.
    ///
    /// # Errors
    /// The database's.
    pub async fn tunnel_closed(&self, host: &HostId, place: &TunnelPlace) -> Result<(), DbError> {
        on!(write & self.db, |c| sqlx::query("DELETE FROM host_tunnels WHERE host_id = $1 AND connection = $2")
            .bind(host.as_str())
            .bind(&place.connection)
            .execute(c)
            .await
            .map(|_| ()))
        .during("forget a host's tunnel")?;
        self.directory.forget(host);
        Ok(())
    }

    /// Whether a tunnel may stay open: it is the host's newest, and the host's credentials still count.
    ///
    /// # Errors
    /// The database's.
    pub async fn tunnel_counts(&self, host: &HostId, place: &TunnelPlace, family: &str) -> Result<bool, DbError> {
        let row: Option<(i64,)> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT CAST(1 AS BIGINT) FROM host_tunnels JOIN hosts ON hosts.id = host_tunnels.host_id
             WHERE host_tunnels.host_id = $1 AND host_tunnels.connection = $2 AND hosts.credential_family = $3"
        )
        .bind(host.as_str())
        .bind(&place.connection)
        .bind(family)
        .fetch_optional(c)
        .await)
        .during("look after a host's tunnel")?;
        Ok(row.is_some())
    }

    /// The family of credentials of a host that asks for its tunnel, if its access token is good.
    ///
    /// # Errors
    /// As for every request of a host.
    pub async fn authenticate_tunnel(&self, host: &HostId, access_token: Option<&str>) -> Result<String, HostError> {
        let row = self.authenticate(host, access_token).await?;
        row.credential_family.ok_or(HostError::Unauthorized)
    }

    /// Whether a replica asks for a stream to `host`.
    pub async fn is_relay(&self, host: &HostId, token: &str) -> Result<bool, HostError> {
        Ok(self.tokens.verify_relay(token, host, self.clock.now()).await?)
    }
}

impl RelayTokens for Hosts {
    fn relay_token(&self, host: &HostId) -> Option<String> {
        match self.tokens.sign_relay(host, self.clock.now(), RELAY_TOKEN) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "could not sign a token for another replica");
                None
            }
        }
    }
}
