//! Webhooks: a team's events, sent to an address of theirs.
//!
//! `worker` (one replica at a time, by a lease) turns events into deliveries and sends those that are due; `target`
//! decides where one may connect to, `send` makes one attempt, `signature` proves that it is ours, `sealed` keeps the
//! secret that it is made with, `store` has the SQL. A delivery is tried with growing pauses until it succeeds or is given up; a webhook to which nothing got
//! through for a day is disabled. An event may arrive twice and out of order; its id tells.
//!
//! What this never does: connect to an address that was not checked, follow a redirect, or read more of an answer
//! than its head.

pub mod sealed;
mod send;
mod signature;
pub mod store;
mod target;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

pub use send::{Attempt, Sender};
pub use store::{DeliveryRow, WebhookRow};
pub use target::{Target, TargetError};
pub use worker::Worker;
pub(crate) use worker::delivery;

use crate::db::Millis;

/// Webhooks of one team.
pub const MAX_WEBHOOKS: i64 = 20;
/// How long deliveries are also signed with the secret before.
pub const SECRETS_OVERLAP: Duration = Duration::from_secs(24 * 3600);
const MAX_ATTEMPTS: i64 = 12;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const DISABLE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// When to try again after so many attempts: pauses double, and differ by up to a fifth so that not all come at once.
/// None: no more.
fn next_attempt(attempts: i64, now: Millis) -> Option<Millis> {
    if attempts >= MAX_ATTEMPTS {
        return None;
    }
    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(u32::try_from(attempts - 1).unwrap_or(0)).min(1 << 16);
    let pause = doubled.min(LONGEST_PAUSE);
    Some(now + pause.mul_f64(rand::random_range(0.8..1.2)))
}

/// How the wanted events are kept: `*`, or the names with commas around each.
#[must_use]
pub fn wanted(events: &[String]) -> String {
    if events.is_empty() { "*".to_owned() } else { format!(",{},", events.join(",")) }
}

/// Whether a webhook wants an event of this type.
#[must_use]
pub fn wants(wanted: &str, kind: &str) -> bool {
    let thing = kind.split('.').next().unwrap_or_default();
    wanted == "*" || wanted.contains(&format!(",{kind},")) || wanted.contains(&format!(",{thing},"))
}

/// A fresh secret.
#[must_use]
pub fn new_secret() -> String {
    format!("whsec_{}", hex::encode(rand::random::<[u8; 24]>()))
}
