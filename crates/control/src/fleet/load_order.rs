//! Hosts in the order of their load, and who has which image: what `LeastLoaded` would otherwise find out by looking at
//! every host for every sandbox. Built when first asked for, kept while promises are added to the list.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::scheduler::{Candidate, Limits};

/// Places in the list, sorted.
type Places = Arc<[usize]>;

#[derive(Debug)]
pub struct LoadOrder {
    /// By load, then by place, which is the order of ids.
    order: BTreeSet<(u64, usize)>,
    loads: Vec<u64>,
    /// Filled for images that were asked for.
    with_image: Mutex<HashMap<String, Places>>,
}

impl Clone for LoadOrder {
    fn clone(&self) -> Self {
        Self { order: self.order.clone(), loads: self.loads.clone(), with_image: Mutex::default() }
    }
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

impl LoadOrder {
    pub fn of(hosts: &[Candidate], limits: &Limits) -> Self {
        let loads: Vec<u64> = hosts.iter().map(|host| load(host, limits)).collect();
        let order = loads.iter().enumerate().map(|(place, load)| (*load, place)).collect();
        Self { order, loads, with_image: Mutex::default() }
    }

    /// The host in this place has been promised something.
    pub fn changed(&mut self, place: usize, host: &Candidate, limits: &Limits) {
        let load = load(host, limits);
        self.order.remove(&(self.loads[place], place));
        self.order.insert((load, place));
        self.loads[place] = load;
    }

    /// All loads with their places, the least first.
    pub fn ascending(&self) -> impl Iterator<Item = (u64, usize)> {
        self.order.iter().copied()
    }

    pub fn load_of(&self, place: usize) -> u64 {
        self.loads[place]
    }

    /// Places with this load, beginning at `start` and going round.
    pub fn equals(&self, load: u64, start: usize) -> impl Iterator<Item = usize> {
        let (after, before) =
            (self.order.range((load, start)..=(load, usize::MAX)), self.order.range((load, 0)..(load, start)));
        after.chain(before).map(|(_, place)| *place)
    }

    /// Hosts that have this image already.
    pub fn with_image(&self, image: &str, hosts: &[Candidate]) -> Places {
        let mut known = self.with_image.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known.get(image) {
            return Arc::clone(places);
        }
        let has = |host: &Candidate| host.cached_images.iter().any(|cached| cached == image);
        let places: Places = hosts.iter().enumerate().filter(|(_, host)| has(host)).map(|(place, _)| place).collect();
        known.insert(image.to_owned(), Arc::clone(&places));
        places
    }
}
