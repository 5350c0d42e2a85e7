//! The other scheduler: the eligible host whose scarcest resource is least promised; among equals one that has the
//! template's image already, then the one whose turn it is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use atoll_model::{HostId, TeamId};

use super::scheduler::{Demand, HostList, NoHost, Scheduler};

#[derive(Debug, Default)]
pub struct LeastLoaded {
    /// Given last: among equals the next one by id is taken, so that many empty hosts fill evenly.
    last: Mutex<HashMap<Option<TeamId>, HostId>>,
}

impl Scheduler for LeastLoaded {
    fn pick(&self, demand: &Demand, list: &HostList) -> Result<HostId, NoHost> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let eligible = |place: &usize| list.objection(demand, &list.hosts[*place]).is_none();
        let order = list.by_load();
        let least = order.ascending().find(|(_, place)| eligible(place));
        let (load, first) = least.ok_or_else(|| list.explain(demand))?;
        // Hosts come in the order of their ids: the first after the last one given, else the very first.
        let group = demand.team_is_byoc.then(|| demand.team.clone());
        let start = last.get(&group).map_or(0, |last| list.hosts.partition_point(|host| &host.id <= last));
        let cached = demand.image.as_ref().and_then(|image| {
            let places = order.with_image(image, &list.hosts);
            let (before, after) = places.split_at(places.partition_point(|place| *place < start));
            let fits = |place: &usize| order.load_of(*place) == load && eligible(place);
            after.iter().chain(before).copied().find(fits)
        });
        let picked = cached.or_else(|| order.equals(load, start).find(eligible)).unwrap_or(first);
        let host = &list.hosts[picked].id;
        if demand.only.is_none() && demand.volumes_on.is_none() {
            last.insert(group, host.clone());
        }
        Ok(host.clone())
    }
}
