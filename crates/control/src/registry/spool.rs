//! What is coming in and stands in no row yet: bytes in files of this server, bounded for a team and by the room on the
//! disk. Other replicas count their own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_model::TeamId;

use super::{MAX_TEAM, RegistryError};

/// The disk is looked at once in so many bytes.
const STEP: u64 = 16 << 20;
/// Bytes of the disk that are left for everything else: a tenth of it, or this if that is less.
const RESERVE: u64 = 4 << 30;

#[derive(Debug, Clone, Default)]
pub struct Spool {
    teams: Arc<Mutex<HashMap<TeamId, u64>>>,
}

impl Spool {
    fn teams(&self) -> MutexGuard<'_, HashMap<TeamId, u64>> {
        self.teams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count for a team that has `used` bytes in rows, in files of this directory.
    pub fn begin<'a>(&'a self, team: &TeamId, used: u64, directory: &'a Path) -> Coming<'a> {
        Coming { spool: self, team: team.clone(), used, directory, taken: 0 }
    }
}

/// What comes in for one part; counted until it is dropped.
pub struct Coming<'a> {
    spool: &'a Spool,
    team: TeamId,
    used: u64,
    directory: &'a Path,
    taken: u64,
}

impl Coming<'_> {
    /// So many bytes have come by now.
    ///
    /// # Errors
    /// [`RegistryError::TeamIsFull`], [`RegistryError::NoRoom`].
    pub fn grow(&mut self, length: u64) -> Result<(), RegistryError> {
        let begins_a_step = self.taken == 0 || length / STEP > self.taken / STEP;
        if begins_a_step && !has_room(self.directory) {
            return Err(RegistryError::NoRoom);
        }
        let more = length.saturating_sub(self.taken);
        let mut teams = self.spool.teams();
        let all = teams.entry(self.team.clone()).or_default();
        if self.used.saturating_add(*all).saturating_add(more) > MAX_TEAM {
            return Err(RegistryError::TeamIsFull);
        }
        *all += more;
        self.taken += more;
        Ok(())
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut teams = self.spool.teams();
        if let Some(all) = teams.get_mut(&self.team) {
            *all = all.saturating_sub(self.taken);
            if *all == 0 {
                teams.remove(&self.team);
            }
        }
    }
}

/// A disk that can't be asked is asked by the write itself.
fn has_room(directory: &Path) -> bool {
    let Ok(space) = rustix::fs::statvfs(directory) else { return true };
    let (free, all) = (space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize));
    free > (all / 10).min(RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_has_no_more_under_way_than_it_may_have_in_all() {
        let (spool, team, other) = (Spool::default(), TeamId::new(), TeamId::new());
        let here = Path::new("/");
        let mut one = spool.begin(&team, 10, here);
        one.grow(MAX_TEAM / 2).unwrap();
        let mut two = spool.begin(&team, 10, here);
        two.grow(MAX_TEAM / 2 - 10).unwrap();
        assert!(matches!(two.grow(MAX_TEAM / 2), Err(RegistryError::TeamIsFull)));
        spool.begin(&other, 0, here).grow(MAX_TEAM).unwrap();
        drop(one);
        two.grow(MAX_TEAM / 2).unwrap();
        drop(two);
        assert!(spool.teams().is_empty());
    }
}
