//! The default scheduler: each eligible host in turn.
//!
//! It remembers the id that it gave last, not a position: hosts are taken in the order of their ids, beginning
//! after that one. So a host that joins or leaves changes nobody else's turn, and no host is ever passed over. Hosts of
//! a team have turns of their own, and a sandbox that can be in one place alone takes nobody's turn.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use atoll_model::{HostId, TeamId};

use super::scheduler::{Demand, HostList, NoHost, Scheduler};

#[derive(Debug, Default)]
pub struct RoundRobin {
    /// Of the platform's hosts, and of each byoc team's.
    last: Mutex<HashMap<Option<TeamId>, HostId>>,
}

impl Scheduler for RoundRobin {
    fn pick(&self, demand: &Demand, list: &HostList) -> Result<HostId, NoHost> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let group = demand.team_is_byoc.then(|| demand.team.clone());
        let start = last.get(&group).map_or(0, |last| list.hosts.partition_point(|host| &host.id <= last));
        let (before, after) = list.hosts.split_at(start);
        let picked = after.iter().chain(before).find(|host| list.objection(demand, host).is_none());
        match picked {
            Some(host) => {
                if demand.only.is_none() && demand.volumes_on.is_none() {
                    last.insert(group, host.id.clone());
                }
                Ok(host.id.clone())
            }
            None => Err(list.explain(demand)),
        }
    }
}
