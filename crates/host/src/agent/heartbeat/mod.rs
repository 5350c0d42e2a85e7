//! The heartbeat: tells control that the host lives, and acts on what the answer means for it.
//!
//! One task that does nothing else: listing, pausing and renewing ahead of time never delay it by more than their own
//! request. What each answer leads to is decided in [`decision`]; what must outlive the agent is in [`memory`].

pub mod decision;
pub mod memory;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::api::hosts::HeartbeatRequest;
use chrono::Utc;
use rand::Rng;
use rustix::time::ClockId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::control::{ControlApi, HeartbeatAnswer, NoAnswer};
use super::credentials::CredentialStore;
use super::renewal::Renewal;
use super::{tombstone, trust};
use decision::{Contact, Millis, Next, Observation, PauseCause, Timing, millis};
use memory::ContactMemory;

/// After a renewal ahead of time that failed, the next attempt.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// What a starting agent gives its first heartbeat before contact counts as lost.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Between these is what a heartbeat waits for its answer: as long as its interval.
const SHORTEST_ANSWER: Duration = Duration::from_secs(2);
const LONGEST_ANSWER: Duration = Duration::from_secs(15);
/// When something resisted a pause of all, the next attempt.
const SWEEP_AGAIN: Duration = Duration::from_secs(2);
/// What an orderly shutdown gives to the last heartbeat.
const FAREWELL: Duration = Duration::from_secs(3);

/// What the heartbeat needs of the rest of the agent.
#[async_trait]
pub trait Body: Send + Sync + 'static {
    /// The state of the host, quickly: nothing in it waits.
    fn report(&self) -> HeartbeatRequest;

    /// Waits for what control should hear at once.
    async fn news(&self);

    /// Whether control may give new work.
    fn accept_work(&self, accept: bool);

    /// Whether all is paused because contact is lost: then nothing new begins either.
    fn out_of_contact(&self, lost: bool);

    /// Pauses every sandbox that runs or starts, with a deadline; a failure of one never stops the rest. Whether none is
    /// left that does.
    async fn pause_all(&self, cause: PauseCause) -> bool;
}

/// How the heartbeat came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent shuts down.
    ShutDown,
    /// Control has deleted the host and proved it.
    Deleted,
}

pub struct Heartbeat {
    pub control: Arc<dyn ControlApi>,
    pub store: Arc<CredentialStore>,
    pub renewal: Renewal,
    pub body: Arc<dyn Body>,
    pub memory: ContactMemory,
    pub timing: Timing,
    /// The interval of the configuration, before which control's wish does not count.
    pub interval_override: Option<Duration>,
    /// For the message that says how to enrol again.
    pub server_url: String,
    /// Becomes true with the first heartbeat that control accepts: from then on it knows where this agent listens.
    pub heard: watch::Sender<bool>,
}

impl Heartbeat {
    /// Beats until the host is deleted or the agent shuts down.
    pub async fn run(self, shutdown: CancellationToken) -> End {
        let now = boot_millis();
        let (last_contact, paused) = self.memory.recall(now);
        // An agent that was away for long asks first: only when that fails is contact lost.
        let last_contact = last_contact.max(
            now.saturating_sub(millis(self.timing.disconnect_after))
                + millis(self.timing.disconnect_after.min(FIRST_WORD)),
        );
        let mut contact = Contact::new(self.timing, last_contact, paused);
        let mut sweep = Sweep::default();
        self.show(&contact);
        if let Some(cause) = contact.paused() {
            // What an earlier agent did not get to, or what has begun to run since (a reboot starts sandboxes).
            self.sweep(cause, &mut sweep);
        }
        let mut renew_not_before = 0;
        let mut next = Next::Beat(Duration::ZERO);
        let mut renew_ahead = false;
        loop {
            let observation = {
                let work = async { if renew_ahead { self.renewal.renew().await } else { self.perform(next).await } };
                tokio::pin!(work);
                loop {
                    let pause = async {
                        match contact.pause_at() {
                            Some(at) => {
                                tokio::time::sleep(Duration::from_millis(at.saturating_sub(boot_millis()))).await
                            }
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        observation = &mut work => break observation,
                        () = pause => self.pause_if_due(&mut contact, &mut sweep),
                        () = shutdown.cancelled() => {
                            self.farewell(contact.accepts_work()).await;
                            return End::ShutDown;
                        }
                    }
                }
            };
            if std::mem::take(&mut renew_ahead) && observation == Observation::RefreshFailed {
                // Ahead of time: the host is still in contact with what it has.
                continue;
            }
            next = contact.observe(boot_millis(), observation, jitter());
            self.after(&mut contact, observation, &mut sweep);
            if observation == Observation::Accepted && self.renewal_is_due(renew_not_before) {
                renew_not_before = boot_millis() + millis(RENEW_AGAIN);
                renew_ahead = true;
            }
            if next == Next::Forget {
                return End::Deleted;
            }
        }
    }

    async fn perform(&self, next: Next) -> Observation {
        match next {
            Next::Beat(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.body.news() => {}
                }
                self.beat().await
            }
            Next::Refresh(wait) => {
                tokio::time::sleep(wait).await;
                self.renewal.renew().await
            }
            Next::Forget => Observation::Deleted,
        }
    }

    async fn beat(&self) -> Observation {
        let Some(stored) = self.store.load() else { return Observation::NoAnswer };
        let identity = &stored.current;
        let report = self.body.report();
        let sent = self.control.heartbeat(identity.host_id(), &identity.credentials.access_token, &report);
        // A link that swallows packets must not hold the next attempt up for long.
        let limit = self.timing.interval.clamp(SHORTEST_ANSWER, LONGEST_ANSWER);
        let late = || NoAnswer {
            attempted: "sending a heartbeat",
            cause: format!("no answer within {limit:?}"),
            status: None,
        };
        let answer = tokio::time::timeout(limit, sent).await.unwrap_or_else(|_| Err(late()));
        match answer {
            Ok(HeartbeatAnswer::Accepted) => {
                if let Err(error) = self.store.confirm() {
                    tracing::warn!(error = format!("{error:#}"), "can't drop the former credentials");
                }
                Observation::Accepted
            }
            Ok(HeartbeatAnswer::Unauthorized) => {
                tracing::info!("control does not accept the access token: renewing it");
                Observation::Refused
            }
            Ok(HeartbeatAnswer::Gone(proof)) => {
                let verified = trust::certificates(&identity.credentials.ca)
                    .map_err(|error| format!("{error:#}"))
                    .and_then(|ca| tombstone::verify(&proof, identity.host_id(), &ca).map_err(|e| e.to_string()));
                match verified {
                    Ok(()) => Observation::Deleted,
                    Err(error) => {
                        tracing::warn!(error, "somebody says that this host was deleted, without proof: ignored");
                        Observation::NoAnswer
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no heartbeat reached control");
                Observation::NoAnswer
            }
        }
    }

    fn after(&self, contact: &mut Contact, observation: Observation, sweep: &mut Sweep) {
        match observation {
            Observation::Accepted => {
                sweep.end();
                self.memory.remember(contact.last_contact(), None);
                self.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
            }
            Observation::Renewed if self.interval_override.is_none() => {
                if let Some(stored) = self.store.load() {
                    contact.set_interval(interval_of(&stored.current.credentials.settings));
                }
            }
            Observation::Rejected => tracing::error!(
                "control has rejected this host's credentials, and all its sandboxes are paused. To enrol it again, \
                 make a registration token (`atoll hosts token HOST`, or POST /v1/hosts/{{id}}/token), stop this agent \
                 and run: atoll host --server {} --register TOKEN",
                self.server_url
            ),
            _ => {}
        }
        self.show(contact);
        self.pause_if_due(contact, sweep);
    }

    /// Lets the rest of the agent know where the host stands.
    fn show(&self, contact: &Contact) {
        self.body.accept_work(contact.accepts_work());
        self.body.out_of_contact(contact.paused().is_some());
    }

    fn pause_if_due(&self, contact: &mut Contact, sweep: &mut Sweep) {
        let Some(cause) = contact.pause_due(boot_millis()) else { return };
        match cause {
            PauseCause::ContactLost => tracing::warn!("contact with control is lost: pausing all sandboxes"),
            PauseCause::Rejected => tracing::warn!("this host is no longer welcome: pausing all sandboxes"),
        }
        self.memory.remember(contact.last_contact(), Some(cause));
        self.show(contact);
        self.sweep(cause, sweep);
    }

    /// Pauses everything, again and again until nothing runs or starts any more, or control is back.
    fn sweep(&self, cause: PauseCause, sweep: &mut Sweep) {
        let body = self.body.clone();
        let until_none = async move {
            while !body.pause_all(cause).await {
                tokio::time::sleep(SWEEP_AGAIN).await;
            }
        };
        let stop = sweep.begin();
        tokio::spawn(stop.run_until_cancelled_owned(until_none));
    }

    fn renewal_is_due(&self, not_before: Millis) -> bool {
        boot_millis() >= not_before
            && self.store.load().is_some_and(|it| Utc::now().timestamp_millis() >= it.current.renew_at_ms())
    }

    /// Tells control that the host goes away in order, once, briefly.
    async fn farewell(&self, welcome: bool) {
        let Some(stored) = self.store.load().filter(|_| welcome) else { return };
        let report = HeartbeatRequest { going_offline: true, ready: false, ..self.body.report() };
        let credentials = &stored.current.credentials;
        let sent = self.control.heartbeat(&credentials.host_id, &credentials.access_token, &report);
        if !matches!(tokio::time::timeout(FAREWELL, sent).await, Ok(Ok(HeartbeatAnswer::Accepted))) {
            tracing::info!("control could not be told that this host goes offline");
        }
    }
}

/// The pause of all that is under way.
#[derive(Default)]
struct Sweep {
    stop: CancellationToken,
}

impl Sweep {
    /// In place of the one before. What ends it.
    fn begin(&mut self) -> CancellationToken {
        self.end();
        self.stop = CancellationToken::new();
        self.stop.clone()
    }

    fn end(&self) {
        self.stop.cancel();
    }
}

/// With the heartbeat ends its sweep: at a shutdown the sandboxes stay as they are.
impl Drop for Sweep {
    fn drop(&mut self) {
        self.end();
    }
}

/// The interval that control asks for, within reason.
#[must_use]
pub fn interval_of(settings: &atoll_model::api::hosts::HostSettings) -> Duration {
    Duration::from_millis(settings.heartbeat_interval_ms).clamp(Duration::from_millis(50), Duration::from_secs(600))
}

/// Milliseconds since the machine booted, sleep included.
#[must_use]
pub fn boot_millis() -> Millis {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn jitter() -> f64 {
    rand::rng().random_range(-1.0..=1.0)
}
