//! What a team may have at once: sandboxes that are not stopped, and what they were promised (vcpus, memory, disk);
//! volumes count with their size as disk.
//!
//! [`reserve`] is called in the transaction that inserts a sandbox's row, before it: it locks the team's row, adds up
//! what the team has from the rows themselves, and refuses what would go over. So creates that come at once wait for
//! each other, and exactly as many get through as there is room for. A team without any limit pays one look-up and
//! waits for nobody.

mod store;
#[cfg(test)]
mod tests;

use atoll_model::TeamId;
use atoll_model::api::teams::{Allowance, Quotas};

use crate::db::{Db, DbError, Tx};

pub use store::{Limits, set};

/// What a new sandbox takes, or a new volume.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub sandboxes: i64,
    pub vcpus: i64,
    pub memory_mb: i64,
    pub disk_mb: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error("the team's quota of {quota} would be exceeded: it has {used} of {limit}, and this takes {asked} more")]
    Exceeded { quota: &'static str, used: i64, asked: i64, limit: i64 },
    /// It was deleted a moment ago.
    #[error("there is no such team")]
    NoTeam,
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Refuses what would take the team over a limit. Until the end of `tx` nobody else can take the room.
pub async fn reserve(tx: &mut Tx, team: &TeamId, defaults: &Limits, ask: Ask) -> Result<(), QuotaError> {
    let limits = store::limits(tx, team).await?.ok_or(QuotaError::NoTeam)?.or(defaults);
    if limits == Limits::default() {
        return Ok(());
    }
    store::lock(tx, team).await?;
    let used = store::used_in(tx, team).await?;
    for (quota, limit, used, asked) in [
        ("sandboxes", limits.sandboxes, used.sandboxes, ask.sandboxes),
        ("vcpus", limits.vcpus, used.vcpus, ask.vcpus),
        ("memory_mb", limits.memory_mb, used.memory_mb, ask.memory_mb),
        ("disk_mb", limits.disk_mb, used.disk_mb, ask.disk_mb),
    ] {
        if let Some(limit) = limit
            && asked > 0
            && used.saturating_add(asked) > limit
        {
            return Err(QuotaError::Exceeded { quota, used, asked, limit });
        }
    }
    Ok(())
}

/// What a team has and may have now.
pub async fn of_team(db: &Db, team: &TeamId, defaults: &Limits) -> Result<Option<Quotas>, DbError> {
    let Some(own) = store::limits_now(db, team).await? else { return Ok(None) };
    let (limits, used) = (own.or(defaults), store::used(db, team).await?);
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let allowance = |used: i64, limit: Option<i64>, own: Option<i64>| Allowance {
        used: number(used),
        limit: limit.map(number),
        own: own.map(number),
    };
    Ok(Some(Quotas {
        sandboxes: allowance(used.sandboxes, limits.sandboxes, own.sandboxes),
        vcpus: allowance(used.vcpus, limits.vcpus, own.vcpus),
        memory_mb: allowance(used.memory_mb, limits.memory_mb, own.memory_mb),
        disk_mb: allowance(used.disk_mb, limits.disk_mb, own.disk_mb),
    }))
}
