//! The other scheduler: the eligible host whose scarcest resource is least promised; among equals one that has the
//! template's image already, then the one whose turn it is.

use atoll_model::HostId;

use super::round_robin::RoundRobin;
use super::scheduler::{Candidate, Demand, HostList, Limits, NoHost, Scheduler};

#[derive(Debug, Default)]
pub struct LeastLoaded {
    /// Breaks ties, so that many empty hosts fill evenly.
    turn: RoundRobin,
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
        let mut best = Vec::new();
        let mut best_rank = (u64::MAX, true);
        for host in list.hosts.iter() {
            let load = load(host, &list.limits);
            if load > best_rank.0 || list.objection(demand, host).is_some() {
                continue;
            }
            let lacks_image = demand.image.as_ref().is_some_and(|image| !host.cached_images.contains(image));
            let rank = (load, lacks_image);
            if best.is_empty() || rank < best_rank {
                best.clear();
                best_rank = rank;
            }
            if rank == best_rank {
                best.push(host.clone());
            }
        }
        match best.len() {
            0 => Err(list.explain(demand)),
            1 => Ok(best.swap_remove(0).id),
            _ => self.turn.pick(demand, &HostList { hosts: best, as_of: list.as_of, limits: list.limits.clone() }),
        }
    }
}
