//! Turns events into deliveries and sends what is due. One replica at a time does it, by a lease; another goes on
//! where it was, since all of it is in the database.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::DeliveryId;
use atoll_model::api::webhooks::DeliveryStatus;
use futures::StreamExt;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::sealed;
use super::send::Message;
use super::store::{self, DeliveryRow, WebhookRow};
use super::{Attempt, DISABLE_AFTER, Sender, next_attempt, wants};
use crate::audit::{self, Actor, Entry, Origin};
use crate::clock::Clock;
use crate::db::{Db, DbError, Millis, Text, leases, settings, writes};
use crate::events::order::Place;
use crate::events::store as outbox;
use crate::live;
use crate::secrets::cipher::Cipher;

const LEASE: &str = "webhooks";
const LEASE_TIME: Duration = Duration::from_secs(60);
/// Events that come together are looked at together.
const GATHER: Duration = Duration::from_millis(200);
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// Longer than an attempt takes.
const CLAIM_TIME: Duration = Duration::from_secs(45);
/// Where reading of the outbox goes on.
const CURSOR: &str = "webhooks_cursor";
const BATCH: i64 = 200;
const AT_ONCE: usize = 8;
const DUE: i64 = 32;

/// Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    pub db: Db,
    pub clock: Clock,
    pub sender: Sender,
    pub cipher: Arc<Cipher>,
    pub replica: String,
}

impl Worker {
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut written, mut place) = (writes(), None);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = written.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK_ANYWAY) => {}
            }
            written.mark_unchanged();
            if let Err(error) = self.turn(&mut place).await {
                place = None;
                tracing::warn!(error = &error as &dyn std::error::Error, "webhooks could not be served");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let _ = leases::release(&self.db, LEASE, &self.replica).await;
    }

    /// One round: what has happened becomes deliveries, what is due is sent. Answers how many were sent.
    pub async fn turn(&self, place: &mut Option<Place>) -> Result<usize, DbError> {
        let hooks = store::enabled(&self.db).await?;
        if hooks.is_empty() {
            *place = None;
            return Ok(0);
        }
        if leases::take(&self.db, LEASE, &self.replica, self.clock.now(), LEASE_TIME).await?.is_none() {
            *place = None;
            return Ok(0);
        }
        self.spread(&hooks, place).await?;
        let sent = self.send_due().await?;
        self.disable_dead().await?;
        Ok(sent)
    }

    async fn spread(&self, hooks: &[WebhookRow], place: &mut Option<Place>) -> Result<(), DbError> {
        let oldest = hooks.iter().map(|hook| hook.after_event).min().unwrap_or(0);
        let place = match place {
            Some(place) => place,
            None => {
                let kept = settings::get(&self.db, CURSOR).await?.and_then(|id| id.parse().ok()).unwrap_or(0);
                place.insert(Place::after(oldest.max(kept)))
            }
        };
        loop {
            let (rows, horizon) = outbox::after(&self.db, place.last(), BATCH).await?;
            let full = rows.len() as i64 == BATCH;
            let before = place.last();
            let ready = place.take(&rows, horizon);
            let now = self.clock.now();
            let mut wanted = Vec::new();
            for row in &rows[..ready] {
                let of_team = |hook: &&WebhookRow| row.team_id.as_ref() == Some(&hook.team_id);
                let hooks: Vec<_> = hooks
                    .iter()
                    .filter(of_team)
                    .filter(|hook| row.id > hook.after_event && wants(&hook.events, &row.kind))
                    .collect();
                if hooks.is_empty() {
                    continue;
                }
                let body = serde_json::to_string(&live::event(&self.db, row).await?).unwrap_or_default();
                wanted.extend(hooks.into_iter().map(|hook| delivery(hook, Some(row.id), &row.kind, body.clone(), now)));
            }
            if place.last() > before {
                let mut tx = self.db.begin().await?;
                for delivery in &wanted {
                    store::insert_delivery(&mut tx, delivery).await?;
                }
                settings::set_in(&mut tx, CURSOR, &place.last().to_string(), now).await?;
                tx.commit().await?;
            }
            if !full || place.waits() {
                return Ok(());
            }
        }
    }

    async fn send_due(&self) -> Result<usize, DbError> {
        let now = self.clock.now();
        let due = store::claim(&self.db, now, now + CLAIM_TIME, DUE).await?;
        let count = due.len();
        let mut attempts =
            futures::stream::iter(due.into_iter().map(|delivery| self.deliver(delivery))).buffer_unordered(AT_ONCE);
        while let Some(result) = attempts.next().await {
            result?;
        }
        Ok(count)
    }

    /// Tries one delivery, and notes what came of it.
    pub async fn deliver(&self, delivery: DeliveryRow) -> Result<(), DbError> {
        let Some(hook) = store::get_any(&self.db, delivery.webhook_id.as_str()).await? else { return Ok(()) };
        let sealed = hook.secrets(self.clock.now());
        let opened = sealed.into_iter().map(|sealed| sealed::open(&self.cipher, &hook.team_id, &hook.id, sealed));
        let attempt = match opened.collect::<Result<Vec<_>, _>>() {
            Ok(secrets) => {
                let secrets = secrets.iter().map(ExposeSecret::expose_secret).collect();
                let message = Message { id: delivery.id.as_str(), url: &hook.url, secrets, body: &delivery.body };
                self.sender.attempt(&message, self.clock.now()).await
            }
            // Nothing goes out unsigned.
            Err(error) => {
                tracing::error!(webhook = hook.id.as_str(), %error, "a webhook's secret can't be read");
                let error = Some(format!("the webhook's secret can't be read: {error}"));
                Attempt { response_status: None, error, duration_ms: 0 }
            }
        };
        let now = self.clock.now();
        // A test is tried once.
        let next = delivery.event_id.and_then(|_| next_attempt(delivery.attempts + 1, now));
        let mut tx = self.db.begin().await?;
        store::note(&mut tx, &delivery, &attempt, next, now).await?;
        tx.commit().await
    }

    async fn disable_dead(&self) -> Result<(), DbError> {
        let now = self.clock.now();
        for hook in store::long_failing(&self.db, now - DISABLE_AFTER).await? {
            let reason = format!("nothing got through for {} hours", DISABLE_AFTER.as_secs() / 3600);
            let mut tx = self.db.begin().await?;
            let disabled = WebhookRow { enabled: false, disabled_reason: Some(reason.clone()), ..hook.clone() };
            if store::update(&mut tx, &disabled, now).await? {
                let entry = Entry {
                    team: Some(&hook.team_id.0),
                    actor: &Actor::System,
                    origin: &Origin::default(),
                    action: "webhook.disable",
                    target_kind: "webhook",
                    target_id: Some(hook.id.as_str()),
                    result: "ok",
                    details: json!({ "before": { "enabled": true }, "after": { "enabled": false }, "reason": reason }),
                };
                audit::record(&mut tx, now, &entry).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Something that is to be sent.
pub(crate) fn delivery(hook: &WebhookRow, event_id: Option<i64>, kind: &str, body: String, now: Millis) -> DeliveryRow {
    DeliveryRow {
        id: Text(DeliveryId::new()),
        webhook_id: hook.id.clone(),
        event_id,
        kind: kind.to_owned(),
        body,
        status: Text(DeliveryStatus::Pending),
        attempts: 0,
        next_at: now,
        response_status: None,
        error: None,
        duration_ms: None,
        created_at: now,
        finished_at: None,
    }
}
