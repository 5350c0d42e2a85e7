//! What sandboxes used: sampled every five seconds, kept in tiers (ten minutes by 5 s, two hours by 1 min, thirty days by
//! 15 min), readable for as long as a sandbox is there, paused or not.
//!
//! One thread's work at a time samples all that run. A sandbox whose processor time has not moved since its last reading
//! has run nothing, so that one number is all that is read of it, and the rest is read once a minute; only those that
//! work cost more. Points go to disk once a minute and at the agent's end ([`file`]): a crash costs the last minute.
//! Sandboxes that stand still are not sampled, and nothing of them is in memory. What is forgotten by the keeper loses
//! its history too. Nothing here decides anything about a sandbox.

mod file;
mod point;
mod series;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::SandboxId;
use chrono::Utc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use file::{TIERS, Tier};
pub use point::Point;

use crate::sandboxes::machine::{Machine, Use};
use crate::sandboxes::{Keeper, State, View};
use file::HistoryFile;
use series::{Reading, Series};

/// Between two samples.
const EVERY: Duration = Duration::from_secs(TIERS[0].step as u64);
/// Samples between two writes, and between two full readings of a sandbox that rests.
const WRITE_EVERY: u64 = 12;
/// Two readings that are nearer than this say nothing about the processor.
const NEAREST: Duration = Duration::from_millis(100);

/// What a sandbox uses now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub used: Use,
    /// Of one core.
    pub cpu_pct: f32,
}

/// The histories of this host. Cheap to clone.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
}

struct Shared {
    keeper: Keeper,
    machine: Arc<dyn Machine>,
    directory: PathBuf,
    running: Mutex<HashMap<SandboxId, Series>>,
}

impl History {
    /// Makes its directory.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(data_dir: &Path, keeper: Keeper, machine: Arc<dyn Machine>) -> io::Result<Self> {
        let directory = data_dir.join("metrics");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let shared = Shared { keeper, machine, directory, running: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Samples until `stop`, then writes what is not on disk yet.
    pub async fn run(self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = 0;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => true,
                _ = timer.tick() => false,
            };
            let history = self.clone();
            // Reads files of the kernel for each sandbox: not on a thread that serves others.
            let work = tokio::task::spawn_blocking(move || match ended {
                true => history.write_all(),
                false => history.sample(tick, unix_now(), Instant::now()),
            });
            if work.await.is_err() {
                tracing::error!("sampling what sandboxes use has panicked; it goes on with the next sample");
            }
            if ended {
                return;
            }
            tick += 1;
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<SandboxId, Series>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.shared.directory.join(id.as_str())
    }

    /// One sample of all that run.
    fn sample(&self, tick: u64, now: u32, when: Instant) {
        let views = self.shared.keeper.list();
        let live: Vec<_> = views.iter().filter(|view| view.state == State::Running).collect();
        for view in &live {
            // Full readings and writes of sandboxes that rest are spread over the minute.
            let due = (tick + spread(&view.id)).is_multiple_of(WRITE_EVERY);
            self.sample_one(view, due, now, when);
        }
        let live: HashSet<_> = live.iter().map(|view| &view.id).collect();
        let kept = self.shared.keeper.ids();
        self.running().retain(|id, series| {
            let rests = !live.contains(id);
            if rests && kept.contains(id) {
                self.write(id, series, &[]);
            }
            !rests
        });
        if tick.is_multiple_of(WRITE_EVERY) && self.shared.keeper.inventory_complete() {
            self.remove_strays(&kept);
        }
    }

    fn sample_one(&self, view: &View, due: bool, now: u32, when: Instant) {
        let before = self.running().get(&view.id).map(|series| series.last);
        let rests = before
            .filter(|_| !due)
            .filter(|before| self.shared.machine.cpu_usec(&view.id).is_some_and(|usec| usec == before.used.cpu_usec));
        let used = match rests {
            Some(before) => before.used,
            None => self.shared.machine.usage(&view.id, view.slot),
        };
        let reading = Reading { when, used };
        let mut running = self.running();
        match running.get_mut(&view.id) {
            Some(series) => {
                let complete = series.add(now, reading);
                if due || !complete.is_empty() {
                    self.write(&view.id, series, &complete);
                }
            }
            None => {
                let file = HistoryFile::open(&self.path(&view.id)).ok().flatten();
                running.insert(view.id.clone(), Series::begin(reading, now, file.as_ref()));
            }
        }
    }

    fn write(&self, id: &SandboxId, series: &mut Series, complete: &[(usize, Point)]) {
        let written = HistoryFile::create(&self.path(id)).and_then(|file| {
            complete.iter().try_for_each(|(tier, point)| file.put(*tier, point))?;
            series.write(&file)
        });
        if let Err(error) = written {
            tracing::warn!(sandbox = %id, %error, "a part of its metrics' history could not be written");
        }
        series.forget_beyond(TIERS[0].places as usize);
    }

    fn write_all(&self) {
        let kept = self.shared.keeper.ids();
        for (id, series) in self.running().iter_mut().filter(|(id, _)| kept.contains(id)) {
            self.write(id, series, &[]);
        }
    }

    /// Histories of sandboxes that are not here any more.
    fn remove_strays(&self, kept: &HashSet<SandboxId>) {
        let Ok(entries) = fs::read_dir(&self.shared.directory) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
            if id.is_none_or(|id| !kept.contains(&id))
                && let Err(error) = fs::remove_file(entry.path())
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %entry.path().display(), %error, "an old history of metrics can't be removed");
            }
        }
    }

    /// A sandbox's points from `from` to `until` (seconds since 1970), oldest first, and the seconds that each stands
    /// for: of the finest tier that reaches back to `from`. Blocks.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn read(&self, id: &SandboxId, from: u32, until: u32) -> io::Result<(u32, Vec<Point>)> {
        self.read_at(id, from, until, unix_now())
    }

    fn read_at(&self, id: &SandboxId, from: u32, until: u32, now: u32) -> io::Result<(u32, Vec<Point>)> {
        let age = now.saturating_sub(from);
        let index = TIERS.iter().position(|tier| age <= tier.reach()).unwrap_or(TIERS.len() - 1);
        let tier = TIERS[index];
        // A point is of the time in which it began; what is older than the reach is what its place will be written over.
        let from = tier.start_of(from).max(now.saturating_sub(tier.reach()));
        let in_memory = self.running().get(id).map(|series| series.points(index)).unwrap_or_default();
        let mut points = match HistoryFile::open(&self.path(id))? {
            Some(file) => file.read(index, from, until)?,
            None => Vec::new(),
        };
        for point in in_memory.into_iter().filter(|point| (from..=until).contains(&point.at)) {
            match points.binary_search_by_key(&point.at, |known| known.at) {
                Ok(known) => points[known] = point,
                Err(place) => points.insert(place, point),
            }
        }
        Ok((tier.step, points))
    }

    /// What sandboxes use now; those that are not here are left out. Blocks, for a moment if one was never sampled.
    #[must_use]
    pub fn now(&self, ids: &[SandboxId]) -> Vec<(SandboxId, Measured)> {
        let views: Vec<_> = ids.iter().filter_map(|id| self.shared.keeper.get(id).ok()).collect();
        let unknown: HashMap<_, _> = {
            let running = self.running();
            let unknown = views.iter().filter(|view| view.state == State::Running && !running.contains_key(&view.id));
            unknown.map(|view| view.id.clone()).collect::<Vec<_>>()
        }
        .into_iter()
        .map(|id| {
            let cpu_usec = self.shared.machine.cpu_usec(&id).unwrap_or(0);
            (id, Reading { when: Instant::now(), used: Use { cpu_usec, ..Use::default() } })
        })
        .collect();
        if !unknown.is_empty() {
            std::thread::sleep(NEAREST);
        }
        let measure = |view: Arc<View>| {
            let used = self.shared.machine.usage(&view.id, view.slot);
            let reading = Reading { when: Instant::now(), used };
            let running = self.running();
            let cpu_pct = match (running.get(&view.id), unknown.get(&view.id)) {
                _ if view.state != State::Running => 0.0,
                (Some(series), _) if reading.when.duration_since(series.last.when) >= NEAREST => {
                    series.cpu_since_last(&reading)
                }
                (Some(series), _) => series.points(0).last().map_or(0.0, |point| point.cpu_pct),
                (None, Some(first)) => Series::begin(*first, 0, None).cpu_since_last(&reading),
                (None, None) => 0.0,
            };
            drop(running);
            (view.id.clone(), Measured { used, cpu_pct })
        };
        views.into_iter().map(measure).collect()
    }
}

/// A number that stays a sandbox's own.
fn spread(id: &SandboxId) -> u64 {
    id.as_str().bytes().map(u64::from).sum()
}

fn unix_now() -> u32 {
    u32::try_from(Utc::now().timestamp()).unwrap_or(0)
}
