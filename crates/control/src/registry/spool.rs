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

#[derive(Debug, Clone)]
pub struct Spool {
    teams: Arc<Mutex<HashMap<TeamId, u64>>>,
    room: fn(&Path) -> Option<Room>,
}

/// Bytes of a disk.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub free: u64,
    pub all: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self::on(room)
    }
}

impl Spool {
    /// On disks that have so much room.
    pub fn on(room: fn(&Path) -> Option<Room>) -> Self {
        Self { teams: Arc::default(), room }
    }

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
        // A disk that can't be asked is asked by the write itself.
        if begins_a_step && (self.spool.room)(self.directory).is_some_and(|room| !room.is_enough()) {
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

impl Room {
    fn is_enough(self) -> bool {
        self.free > (self.all / 10).min(RESERVE)
    }
}

fn room(directory: &Path) -> Option<Room> {
    let space = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    Some(Room { free: bytes(space.f_bavail), all: bytes(space.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_has_no_more_under_way_than_it_may_have_in_all() {
        let spool = Spool::on(|_| Some(Room { free: 1 << 50, all: 1 << 50 }));
        let (team, other, here) = (TeamId::new(), TeamId::new(), Path::new("/"));
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
    #[test]
    fn a_tenth_of_a_disk_or_four_gigabytes_of_a_large_one_are_for_everything_else() {
        let enough = |free, all| Room { free, all }.is_enough();
        assert!(enough(101, 1000) && !enough(100, 1000) && !enough(0, 0));
        assert!(enough(RESERVE + 1, 1 << 50) && !enough(RESERVE, 1 << 50));
    }

    #[test]
    fn the_disk_is_asked_at_the_beginning_and_again_as_bytes_come() {
        let team = TeamId::new();
        let full = Spool::on(|_| Some(Room { free: 1, all: 1 << 40 }));
        assert!(matches!(full.begin(&team, 0, Path::new("/")).grow(1), Err(RegistryError::NoRoom)));
        // A disk by the name of the directory: the second one fills up between two questions.
        let filling = Spool::on(|at| (at == Path::new("/full")).then_some(Room { free: 0, all: 1 << 40 }));
        let mut coming = filling.begin(&team, 0, Path::new("/"));
        coming.grow(STEP - 1).unwrap();
        coming.directory = Path::new("/full");
        coming.grow(STEP - 1).unwrap();
        assert!(matches!(coming.grow(STEP), Err(RegistryError::NoRoom)));
        drop(coming);
        assert!(filling.teams().is_empty());
    }

    #[test]
    fn a_real_disk_says_how_much_room_it_has() {
        let room = room(Path::new("/")).unwrap();
        assert!(room.all > 0 && room.free <= room.all, "{room:?}");
    }
}
