//! The host monitor: the passive phase for all hosts, the active one for each host that is online, deletions that
//! somebody began, and what time has made worthless.
//!
//! One replica runs the passes, by a lease; a host that comes back is looked at at once by whichever replica heard it.
//! Both may run for a host at the same time, and a pass may stop anywhere: everything is a compare-and-set.
//!
//! Nothing here waits for a whole round: each host is looked at by a task of its own, with a deadline over all that it
//! asks of the host. At each tick those begin that are not still under way, and so does what was left undone.
//!
//! Silence is judged only by whoever could have heard: when control (or its database) itself was away, hosts have a
//! whole `stale_after` to be heard again before any of them is called unreachable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::HostId;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::absence;
use super::host_deletion::HostDeletion;
use super::host_pass::HostPass;
use crate::clock::Clock;
use crate::config::HostTimes;
use crate::db::{Db, DbError, Millis, leases, settings};
use crate::hosts::{HostChange, purge};

/// Hosts looked at at once.
const PARALLEL: usize = 256;
const LEASE: &str = "host_monitor";
const LAST_PASS: &str = "host_monitor.last_pass_ms";
/// What is shorter is no gap in hearing, however short the interval.
const SHORTEST_GAP: Duration = Duration::from_secs(4);
const PURGE_EVERY: Duration = Duration::from_secs(3600);
/// A host that is back may still be finding its sandboxes: it is asked again after these, ever less often, for many may be
/// back at once. Milliseconds.
const SETTLE_PAUSES: [u64; 10] = [500, 500, 500, 500, 500, 500, 1000, 1500, 2000, 2500];
/// A look at a host that has just come back is stuck after this.
const STUCK: Duration = Duration::from_secs(1);
/// Sandboxes that raced with their host's deletion are looked for this long after it.
const DELETION_MEMORY: Duration = Duration::from_secs(3600);

/// The monitor. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    clock: Clock,
    times: HostTimes,
    pass: HostPass,
    deletion: HostDeletion,
    /// Names this replica in the lease.
    holder: String,
    /// Hosts that are being looked at by this replica, or wait for it.
    busy: Mutex<HashMap<HostId, Turn>>,
    /// Turns to look at a host.
    looks: Semaphore,
    /// Held by whoever finishes what was left undone.
    finishing: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Hosts could be heard since then, without a gap.
    hearing_since: Option<Millis>,
    purged_at: Option<Millis>,
    /// The last pass of this replica while it leads.
    passed_at: Option<tokio::time::Instant>,
}

impl Monitor {
    #[must_use]
    pub fn new(db: Db, clock: Clock, times: HostTimes, pass: HostPass, deletion: HostDeletion) -> Self {
        let holder = hex::encode(rand::random::<[u8; 8]>());
        let (busy, memory) = (Mutex::default(), Mutex::default());
        let (looks, finishing) = (Semaphore::new(PARALLEL), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { db, clock, times, pass, deletion, holder, busy, looks, finishing, memory }) }
    }

    /// One look at one host.
    #[cfg(test)]
    pub async fn look_once(&self, host: &HostId) {
        self.shared.pass.look(host).await.unwrap();
    }

    /// Runs until `stop`. What is under way then is left where it is.
    pub async fn run(self, mut changes: Receiver<HostChange>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.pulse());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Silent hosts are noticed on time however long other hosts take to answer.
        let mut work = JoinSet::new();
        let mut listening = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                change = changes.recv(), if listening => listening = self.heard(change, &mut work),
                Some(_ended) = work.join_next(), if !work.is_empty() => {}
                _ = ticks.tick() => if let Err(error) = self.tick(&mut work).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "the host monitor's pass failed");
                },
            }
        }
        drop(work);
        if let Err(error) = leases::release(&self.shared.db, LEASE, &self.shared.holder).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "could not give up the monitor's lease");
        }
    }

    async fn tick(&self, work: &mut JoinSet<()>) -> Result<(), DbError> {
        if !self.holds_lease().await? || !self.is_due() {
            return Ok(());
        }
        self.judge_absence().await?;
        let monitor = self.clone();
        work.spawn(async move { monitor.finish().await });
        self.begin(work).await
    }

    /// How long a replica that died keeps the others from leading: less than an interval, so that whoever takes over is
    /// in time.
    fn lease(&self) -> Duration {
        (self.shared.times.monitor_interval / 2).max(Duration::from_secs(2))
    }

    /// Between two looks at the lease.
    fn pulse(&self) -> Duration {
        (self.lease() / 4).min(self.shared.times.monitor_interval)
    }

    /// Takes or renews the lease. False when another replica leads.
    async fn holds_lease(&self) -> Result<bool, DbError> {
        let shared = &self.shared;
        let holds = leases::take(&shared.db, LEASE, &shared.holder, shared.clock.now(), self.lease()).await?.is_some();
        if !holds {
            shared.memory.lock().unwrap_or_else(PoisonError::into_inner).passed_at = None;
        }
        Ok(holds)
    }

    /// Whether it is time for a pass: at once for whoever has just taken the lease.
    fn is_due(&self) -> bool {
        let (now, interval) = (tokio::time::Instant::now(), self.shared.times.monitor_interval);
        let mut memory = self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let due = memory.passed_at.is_none_or(|at| now - at + self.pulse() / 2 >= interval);
        if due {
            memory.passed_at = Some(now);
        }
        due
    }

    /// False when nothing will be heard any more.
    fn heard(&self, change: Result<HostChange, RecvError>, work: &mut JoinSet<()>) -> bool {
        match change {
            Ok(HostChange::Returned(host)) => {
                let monitor = self.clone();
                work.spawn(async move { monitor.settle(&host).await });
                true
            }
            Ok(HostChange::WentOffline(_)) => {
                let shared = Arc::clone(&self.shared);
                work.spawn(async move {
                    if let Err(error) = absence::mark_missing(&shared.db, shared.clock.now()).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "could not mark sandboxes missing");
                    }
                });
                true
            }
            // The next pass sees what was missed.
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => false,
        }
    }

    /// Looks at a host that has just come back, until it has told of all its sandboxes.
    async fn settle(&self, host: &HostId) {
        if let Some(busy) = Busy::take_over(&self.shared, host)
            && self.look(busy).await
        {
            return;
        }
        for pause in SETTLE_PAUSES {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.look_at(host).await {
                return;
            }
        }
    }

    /// The active phase of one host, when its turn has come. True when there is nothing more to find out soon.
    async fn look_at(&self, host: &HostId) -> bool {
        match Busy::take(&self.shared, host) {
            Some(busy) => self.look(busy).await,
            None => false,
        }
    }

    async fn look(&self, busy: Busy) -> bool {
        let Ok(_turn) = self.shared.looks.acquire().await else { return false };
        let host = &busy.host;
        let looked = busy.turn.replaced.run_until_cancelled(self.shared.pass.look(host)).await;
        match looked {
            None => false,
            Some(Ok(outcome)) => outcome.complete,
            Some(Err(error)) => {
                tracing::warn!(%host, %error, "a host could not be looked at");
                false
            }
        }
    }

    /// The passive phase and the sweeps, if this replica holds the lease or can take it. Whether it did.
    ///
    /// # Errors
    /// The database's.
    #[cfg(any(test, feature = "simulation"))]
    pub async fn lead(&self) -> Result<bool, DbError> {
        let leads = self.holds_lease().await?;
        if leads {
            self.judge_absence().await?;
        }
        Ok(leads)
    }

    async fn judge_absence(&self) -> Result<(), DbError> {
        let now = self.shared.clock.now();
        self.passive(now).await?;
        self.sweep(now).await
    }

    /// Begins to look at every host that is online, but for those that are being looked at still.
    async fn begin(&self, work: &mut JoinSet<()>) -> Result<(), DbError> {
        for host in absence::online(&self.shared.db).await? {
            if let Some(busy) = Busy::take(&self.shared, &host) {
                let monitor = self.clone();
                work.spawn(async move {
                    monitor.look(busy).await;
                });
            }
        }
        Ok(())
    }

    /// One whole round, waited for: the active phase of every host that is online, and what was left undone.
    ///
    /// # Errors
    /// The database's.
    #[cfg(any(test, feature = "simulation"))]
    pub async fn round(&self) -> Result<(), DbError> {
        let mut work = JoinSet::new();
        self.begin(&mut work).await?;
        work.join_all().await;
        self.finish().await;
        Ok(())
    }

    /// The deletions that somebody began, and what time has made worthless. By one task of this replica at a time.
    async fn finish(&self) {
        let shared = &self.shared;
        let Ok(_finishing) = shared.finishing.try_lock() else { return };
        if let Err(error) = shared.deletion.finish_all().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not list the hosts that are being deleted"
            );
        }
        if let Err(error) = self.purge(shared.clock.now()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "could not remove old credentials; trying again");
        }
    }

    async fn passive(&self, now: Millis) -> Result<(), DbError> {
        let shared = &self.shared;
        let last = settings::get(&shared.db, LAST_PASS).await?.and_then(|text| text.parse().ok()).map(Millis);
        settings::set(&shared.db, LAST_PASS, &now.0.to_string(), now).await?;
        // A takeover takes less than two intervals; much longer is a time in which nobody could be heard.
        let gap = last.is_none_or(|last| now.since(last) > (shared.times.monitor_interval * 6).max(SHORTEST_GAP));
        let hearing_since = {
            let mut memory = shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
            if gap {
                memory.hearing_since = Some(now);
            }
            memory.hearing_since
        };
        if hearing_since.is_some_and(|since| now.since(since) < shared.times.stale_after) {
            // Sandboxes of hosts that were away before are missing all the same.
            absence::mark_missing(&shared.db, now).await?;
            return Ok(());
        }
        let unreachable = absence::mark_unreachable(&shared.db, now, shared.times.stale_after).await?;
        for host in &unreachable {
            tracing::warn!(%host, "a host has not been heard of and is unreachable");
        }
        let missing = absence::mark_missing(&shared.db, now).await?;
        if missing > 0 {
            tracing::warn!(sandboxes = missing, "sandboxes are missing because their hosts are away");
        }
        Ok(())
    }

    async fn sweep(&self, now: Millis) -> Result<(), DbError> {
        let shared = &self.shared;
        absence::fail_unplaced(&shared.db, now - shared.times.transition_limit, now).await?;
        absence::stop_on_deleted_hosts(&shared.db, now - DELETION_MEMORY, now).await?;
        Ok(())
    }

    /// When it is time. Whatever fails is due again at the next tick.
    async fn purge(&self, now: Millis) -> Result<(), DbError> {
        let memory = || self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory().purged_at.is_some_and(|at| now.since(at) < PURGE_EVERY) {
            return Ok(());
        }
        purge::run(&self.shared.db, now).await?;
        memory().purged_at = Some(now);
        Ok(())
    }
}

/// A host is looked at by one task of this replica at a time.
struct Busy {
    shared: Arc<Shared>,
    host: HostId,
    turn: Turn,
}

#[derive(Clone)]
struct Turn {
    since: Instant,
    /// Somebody else is at it from now on.
    replaced: CancellationToken,
}

impl Busy {
    /// Unless somebody is at it.
    fn take(shared: &Arc<Shared>, host: &HostId) -> Option<Self> {
        Self::take_if(shared, host, |_| false)
    }

    /// Also in place of somebody who has been at it for some time: the host was away, and what is waited for may be an
    /// answer over a connection that died then.
    fn take_over(shared: &Arc<Shared>, host: &HostId) -> Option<Self> {
        Self::take_if(shared, host, |turn| turn.since.elapsed() > STUCK)
    }

    fn take_if(shared: &Arc<Shared>, host: &HostId, may_replace: impl FnOnce(&Turn) -> bool) -> Option<Self> {
        let mut busy = shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = busy.get(host) {
            if !may_replace(turn) {
                return None;
            }
            turn.replaced.cancel();
        }
        let turn = Turn { since: Instant::now(), replaced: CancellationToken::new() };
        busy.insert(host.clone(), turn.clone());
        Some(Self { shared: Arc::clone(shared), host: host.clone(), turn })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.turn.replaced.is_cancelled() {
            busy.remove(&self.host);
        }
    }
}
