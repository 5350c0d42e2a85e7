//! Which host takes a new sandbox: the question, the tests that a host must pass, and why none did.
//!
//! Pure: no clock, no database, no network. `placement` feeds it and remembers what is under way.

use std::sync::OnceLock;
use std::time::Duration;

use atoll_model::api::hosts::Capacity;
use atoll_model::{HostId, HostStatus, HostType, TeamId};

use super::load_order::LoadOrder;
use crate::config::Overcommit;
use crate::db::Millis;

/// The driver of those that take whichever a host offers first.
pub const ANY_DRIVER: &str = "auto";

/// What a new sandbox asks of a host.
#[derive(Debug, Clone)]
pub struct Demand {
    pub team: TeamId,
    /// A byoc team uses its own hosts and no other; every other team uses regular ones and no other.
    pub team_is_byoc: bool,
    /// `container`, `vm`, or [`ANY_DRIVER`].
    pub driver: String,
    /// What was in memory is to go on, which it does where machines run on the very same; none when it begins anew.
    pub vm_version: Option<String>,
    pub vcpus: u32,
    pub memory_mb: u64,
    pub disk_mb: u64,
    /// Digest of the template's image; only [`super::LeastLoaded`] looks at it, among equals.
    pub image: Option<String>,
    /// The one host that has what it needs; none when any will do.
    pub only: Option<HostId>,
    /// The one host that has its volumes; none when they lie nowhere yet.
    pub volumes_on: Option<HostId>,
    /// Hosts that this create has tried already.
    pub tried: Vec<HostId>,
}

/// A host as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: HostId,
    pub kind: HostType,
    /// The owner of a byoc host.
    pub team: Option<TeamId>,
    pub status: HostStatus,
    pub draining: bool,
    /// The agent says that a create would succeed.
    pub ready: bool,
    /// On offer, the preferred one first.
    pub drivers: Vec<String>,
    /// What its virtual machines run on.
    pub vm_version: Option<String>,
    pub capacity: Capacity,
    /// What its sandboxes have been promised.
    pub committed: Capacity,
    pub last_heartbeat_at: Option<Millis>,
    pub cached_images: Vec<String>,
    /// It failed a create a moment ago.
    pub resting: bool,
}

impl Candidate {
    /// Whether it takes sandboxes of this team at all.
    #[must_use]
    pub fn is_for(&self, team: &TeamId, team_is_byoc: bool) -> bool {
        match self.kind {
            HostType::Regular => !team_is_byoc,
            HostType::Byoc => team_is_byoc && self.team.as_ref() == Some(team),
        }
    }

    /// Adds to what it has been promised.
    pub fn commit(&mut self, more: &Capacity) {
        let sum = &mut self.committed;
        sum.cpu_millis = sum.cpu_millis.saturating_add(more.cpu_millis);
        sum.memory_mb = sum.memory_mb.saturating_add(more.memory_mb);
        sum.disk_mb = sum.disk_mb.saturating_add(more.disk_mb);
    }
}

/// How much more than it has a host may promise, and how old its word may be.
#[derive(Debug, Clone)]
pub struct Limits {
    pub overcommit: Overcommit,
    /// A heartbeat older than this is no word at all. Default 90 s.
    pub stale_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { overcommit: Overcommit::default(), stale_after: Duration::from_secs(90) }
    }
}

/// All hosts at one moment, sorted by id.
#[derive(Debug, Clone)]
pub struct HostList {
    pub hosts: Vec<Candidate>,
    pub as_of: Millis,
    pub limits: Limits,
    by_load: OnceLock<LoadOrder>,
}

impl HostList {
    /// Sorts the hosts.
    #[must_use]
    pub fn new(mut hosts: Vec<Candidate>, as_of: Millis, limits: Limits) -> Self {
        hosts.sort_by(|a, b| a.id.cmp(&b.id));
        Self { hosts, as_of, limits, by_load: OnceLock::new() }
    }

    /// The host in this place has just been promised so much more.
    pub fn promise(&mut self, place: usize, more: &Capacity) {
        let host = &mut self.hosts[place];
        host.commit(more);
        if let Some(order) = self.by_load.get_mut() {
            order.changed(place, host, &self.limits);
        }
    }

    /// Its hosts in the order of their load. Promises are added by [`Self::promise`] alone from now on.
    pub(super) fn by_load(&self) -> &LoadOrder {
        self.by_load.get_or_init(|| LoadOrder::of(&self.hosts, &self.limits))
    }

    /// The first test that `host` fails for `demand`; none if it is eligible.
    #[must_use]
    pub fn objection(&self, demand: &Demand, host: &Candidate) -> Option<Objection> {
        // Isolation comes first: a host of somebody else is not even counted.
        let ours = host.is_for(&demand.team, demand.team_is_byoc);
        let (limits, have, used) = (&self.limits, &host.capacity, &host.committed);
        let fits = |have: u64, factor: u64, used: u64, wanted: u64| {
            used.saturating_add(wanted) <= have.saturating_mul(factor.max(1))
        };
        if !ours {
            Some(Objection::NotForTeam)
        } else if demand.only.as_ref().is_some_and(|only| only != &host.id) {
            Some(Objection::LacksLayers)
        } else if demand.volumes_on.as_ref().is_some_and(|only| only != &host.id) {
            Some(Objection::LacksVolumes)
        } else if demand.vm_version.is_some() && demand.vm_version != host.vm_version {
            Some(Objection::OtherVmVersion)
        } else if host.status != HostStatus::Online {
            Some(Objection::NotOnline)
        } else if host.draining {
            Some(Objection::Draining)
        } else if host.last_heartbeat_at.is_none_or(|at| self.as_of.since(at) > limits.stale_after) {
            Some(Objection::Stale)
        } else if !host.ready {
            Some(Objection::NotReady)
        } else if !host.drivers.iter().any(|driver| demand.driver == ANY_DRIVER || driver == &demand.driver) {
            Some(Objection::NoDriver)
        } else if !fits(have.cpu_millis, limits.overcommit.cpu, used.cpu_millis, u64::from(demand.vcpus) * 1000) {
            Some(Objection::NoCpu)
        } else if !fits(have.memory_mb, limits.overcommit.memory, used.memory_mb, demand.memory_mb) {
            Some(Objection::NoMemory)
        } else if !fits(have.disk_mb, limits.overcommit.disk, used.disk_mb, demand.disk_mb) {
            Some(Objection::NoDisk)
        } else if host.resting || demand.tried.contains(&host.id) {
            Some(Objection::FailedJustNow)
        } else {
            None
        }
    }

    /// Why nobody was eligible.
    #[must_use]
    pub fn explain(&self, demand: &Demand) -> NoHost {
        let mut counts = [0; Objection::ALL.len()];
        let mut considered = 0;
        for objection in self.hosts.iter().filter_map(|host| self.objection(demand, host)) {
            if objection != Objection::NotForTeam {
                considered += 1;
                counts[objection as usize] += 1;
            }
        }
        let failed = Objection::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        NoHost { considered, byoc: demand.team_is_byoc, failed, vm_version: demand.vm_version.clone() }
    }
}

/// A test that a host failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Objection {
    NotForTeam,
    NotOnline,
    Draining,
    Stale,
    NotReady,
    NoDriver,
    NoCpu,
    NoMemory,
    NoDisk,
    LacksLayers,
    LacksVolumes,
    OtherVmVersion,
    FailedJustNow,
}

impl Objection {
    pub const ALL: [Self; 13] = [
        Self::NotForTeam,
        Self::NotOnline,
        Self::Draining,
        Self::Stale,
        Self::NotReady,
        Self::NoDriver,
        Self::NoCpu,
        Self::NoMemory,
        Self::NoDisk,
        Self::LacksLayers,
        Self::LacksVolumes,
        Self::OtherVmVersion,
        Self::FailedJustNow,
    ];

    /// For the error's details.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotForTeam => "not_for_team",
            Self::NotOnline => "not_online",
            Self::Draining => "draining",
            Self::Stale => "stale_heartbeat",
            Self::NotReady => "not_ready",
            Self::NoDriver => "no_driver",
            Self::NoCpu => "no_cpu",
            Self::NoMemory => "no_memory",
            Self::NoDisk => "no_disk",
            Self::LacksLayers => "lacks_layers",
            Self::LacksVolumes => "lacks_volumes",
            Self::OtherVmVersion => "other_vm_version",
            Self::FailedJustNow => "failed_just_now",
        }
    }
}

/// No host is eligible. Hosts that the team may not use are neither counted nor mentioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoHost {
    /// Hosts that the team may use.
    pub considered: usize,
    pub byoc: bool,
    /// Which test failed for how many of them.
    pub failed: Vec<(Objection, usize)>,
    /// What machines had to run on.
    pub vm_version: Option<String>,
}

impl NoHost {
    /// The one host that could have taken it takes nothing new any more.
    #[must_use]
    pub fn draining(byoc: bool) -> Self {
        Self { considered: 1, byoc, failed: vec![(Objection::Draining, 1)], vm_version: None }
    }

    /// Whether there are hosts, and none offers the driver.
    #[must_use]
    pub fn has_no_driver(&self) -> bool {
        matches!(self.failed.as_slice(), [(Objection::NoDriver, count)] if *count == self.considered)
    }

    /// What machines had to run on, if no host has that, whatever else may change.
    #[must_use]
    pub fn unknown_vm_version(&self) -> Option<&str> {
        match self.failed.as_slice() {
            [(Objection::OtherVmVersion, count)] if *count == self.considered => self.vm_version.as_deref(),
            _ => None,
        }
    }
}

impl std::fmt::Display for NoHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.considered == 0 {
            let whose = if self.byoc { "your team has no host of its own yet" } else { "there is no host yet" };
            return write!(f, "no host can take this sandbox: {whose}");
        }
        if let Some(version) = self.unknown_vm_version() {
            return write!(
                f,
                "what it had in memory goes on where machines run on `{version}`, which no host has (of {} considered); \
                 with `\"start_from\": \"files\"` it starts anew, from its files",
                self.considered
            );
        }
        let reasons: Vec<_> = self.failed.iter().map(|(what, count)| format!("{count} {}", what.as_str())).collect();
        write!(f, "no host can take this sandbox; of {} considered: {}", self.considered, reasons.join(", "))?;
        match &self.vm_version {
            Some(version) => write!(f, "; what it had in memory goes on where machines run on `{version}`"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NoHost {}

/// Picks a host for a sandbox. Implementations are shared by all requests.
pub trait Scheduler: Send + Sync {
    /// # Errors
    /// [`NoHost`] when none is eligible, saying which test failed for how many.
    fn pick(&self, demand: &Demand, list: &HostList) -> Result<HostId, NoHost>;
}
