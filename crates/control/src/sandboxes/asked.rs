//! What a person or a key asked of a sandbox that lives (a pause, a resume, another timeout), kept in the audit trail: in
//! the transaction of the decision. What control does by itself is in the sandbox's events alone.

use atoll_model::{OnTimeout, SandboxId, SandboxStatus};
use serde_json::{Value, json};

use super::store::{self, Change};
use super::{Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::audit::{self, Entry};
use crate::db::{DbError, Millis, Tx};

pub(super) async fn note(
    tx: &mut Tx,
    owner: &Owner,
    id: &SandboxId,
    action: &'static str,
    details: Value,
    now: Millis,
) -> Result<(), DbError> {
    let entry = Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "sandbox",
        target_id: Some(id.as_str()),
        result: "ok",
        details,
    };
    audit::record(tx, now, &entry).await
}

impl Sandboxes {
    /// The decision to bring a sandbox `to` a state: compare-and-set, with a new generation. With an entry under
    /// `action` when it was asked for.
    pub(super) async fn decide_for(
        &self,
        asked_by: Option<&Owner>,
        action: &'static str,
        record: &SandboxRecord,
        to: SandboxStatus,
        reason: Option<&str>,
    ) -> Result<Option<SandboxRecord>, SandboxError> {
        let Some(owner) = asked_by else { return self.decide(record, to, reason).await };
        let (from, now) = (record.status(), self.clock.now());
        let generation = record.generation;
        let change = Change { id: &record.id, from, generation, to, reason, decided: true, host: None, at: now };
        let decide = async {
            let mut tx = self.db.begin().await?;
            let Some(decided) = store::change_in(&mut tx, &change).await? else { return Ok(None) };
            let details = json!({ "before": { "status": from }, "after": { "status": to } });
            note(&mut tx, owner, &record.id, action, details, now).await?;
            tx.commit().await?;
            Ok(Some(decided))
        };
        self.row_of(decide).await
    }

    /// Sets the idle timeout of a team's sandbox, and restarts its idle clock.
    pub async fn set_timeout(
        &self,
        owner: &Owner,
        id: &SandboxId,
        seconds: i64,
        on_timeout: Option<OnTimeout>,
    ) -> Result<SandboxRecord, SandboxError> {
        let before = store::get(&self.db, &owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let Some(set) = store::set_timeout(&mut tx, &owner.team, id, seconds, on_timeout, now).await? else {
            let status = before.status();
            return Err(SandboxError::InvalidState { attempted: "set the timeout of", status });
        };
        let shown =
            |record: &SandboxRecord| json!({ "timeout_sec": record.timeout_sec, "on_timeout": record.on_timeout.0.0 });
        let details = json!({ "before": shown(&before), "after": shown(&set) });
        note(&mut tx, owner, id, "sandbox.timeout", details, now).await?;
        tx.commit().await?;
        Ok(set)
    }
}
