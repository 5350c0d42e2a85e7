//! The other scheduler: the eligible host whose scarcest resource is least promised; among equals one that has the
//! template's image already, then the one whose turn it is.

use std::sync::{Mutex, PoisonError};

use atoll_model::HostId;

use super::scheduler::{Candidate, Demand, HostList, Limits, NoHost, Scheduler};

#[derive(Debug, Default)]
pub struct LeastLoaded {
    /// Given last: among equals the next one by id is taken, so that many empty hosts fill evenly.
    last: Mutex<Option<HostId>>,
}

/// Parts in a thousand of the scarcest resource, overcommit counted.
fn load(host: &Candidate, limits: &Limits) -> u64 {
    let share = |used: u64, have: u64, factor: u64| {
        let limit = have.saturating_mul(factor.max(1));
        used.saturating_mul(1000).checked_div(limit).unwrap_or(u64::MAX)
    };
    let (used, have) = (&host.committed, &host.capacity);
    share(used.cpu_millis, have.cpu_millis, limits.overcommit.cpu)
        .max(share(used.memory_mb, have.memory_mb, limits.overcommit.memory))
        .max(share(used.disk_mb, have.disk_mb, limits.overcommit.disk))
}

impl Scheduler for LeastLoaded {
    fn pick(&self, demand: &Demand, list: &HostList) -> Result<HostId, NoHost> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut best: Option<((u64, bool), &Candidate)> = None;
        for host in &list.hosts {
            let load = load(host, &list.limits);
            // Looked at first because it costs least.
            if best.is_some_and(|((least, _), _)| load > least) || list.objection(demand, host).is_some() {
                continue;
            }
            let lacks_image = demand.image.as_ref().is_some_and(|image| !host.cached_images.contains(image));
            let rank = (load, lacks_image);
            // Hosts come in the order of their ids: the first after the last one given, else the very first.
            let its_turn = |chosen: &Candidate| last.as_ref().is_some_and(|last| chosen.id <= *last && host.id > *last);
            match best {
                Some((least, chosen)) if rank > least || (rank == least && !its_turn(chosen)) => {}
                _ => best = Some((rank, host)),
            }
        }
        let (_, host) = best.ok_or_else(|| list.explain(demand))?;
        *last = Some(host.id.clone());
        Ok(host.id.clone())
    }
}
