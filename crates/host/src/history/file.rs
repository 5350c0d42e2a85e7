//! A sandbox's history on disk: one file of three rings, one per tier, each place found by the time that it is of.
//!
//! A place is written as a whole and has a checksum, so a crash at any moment costs that place at most. Files are
//! sparse: they grow to 150 kB with the sandbox's age, and no further.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::point::{Point, SIZE};

/// How fine a part of the history is, and how far back it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// Seconds of one point.
    pub step: u32,
    /// Points that are kept.
    pub places: u32,
}

/// Ten minutes, two hours, thirty days.
pub const TIERS: [Tier; 3] =
    [Tier { step: 5, places: 120 }, Tier { step: 60, places: 120 }, Tier { step: 900, places: 2880 }];

impl Tier {
    /// Seconds that it reaches back.
    #[must_use]
    pub const fn reach(self) -> u32 {
        self.step * self.places
    }

    /// When the point began that `at` belongs to.
    #[must_use]
    pub const fn start_of(self, at: u32) -> u32 {
        at - at % self.step
    }

    fn place_of(self, at: u32) -> u64 {
        u64::from(at / self.step % self.places)
    }
}

/// Where a tier begins in the file.
fn offset(tier: usize) -> u64 {
    TIERS[..tier].iter().map(|tier| u64::from(tier.places) * SIZE as u64).sum()
}

/// An open history.
pub struct HistoryFile(File);

impl HistoryFile {
    /// Made when it is not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(path).map(Self)
    }

    /// None when there is no history.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the point of its time's place.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, tier: usize, point: &Point) -> io::Result<()> {
        let place = TIERS[tier].place_of(point.at);
        self.0.write_all_at(&point.encode(), offset(tier) + place * SIZE as u64)
    }

    /// The point that began at this time, if there is one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, tier: usize, at: u32) -> io::Result<Option<Point>> {
        let mut bytes = [0; SIZE];
        let from = offset(tier) + TIERS[tier].place_of(at) * SIZE as u64;
        match self.0.read_exact_at(&mut bytes, from) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Point::decode(&bytes).filter(|point| point.at == TIERS[tier].start_of(at)))
    }

    /// The points of a tier from `from` up to `until`, oldest first.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn read(&self, tier: usize, from: u32, until: u32) -> io::Result<Vec<Point>> {
        let mut bytes = vec![0; TIERS[tier].places as usize * SIZE];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read_at(&mut bytes[filled..], offset(tier) + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let points = bytes[..filled].chunks_exact(SIZE).filter_map(Point::decode);
        let mut points: Vec<_> = points.filter(|point| (from..=until).contains(&point.at)).collect();
        points.sort_by_key(|point| point.at);
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(at: u32) -> Point {
        Point { at, memory_bytes: u64::from(at), readings: 1, ..Point::default() }
    }

    #[test]
    fn a_full_history_has_the_size_that_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let file = HistoryFile::create(&path).unwrap();
        for (tier, shape) in TIERS.iter().enumerate() {
            for step in 0..shape.places * 2 {
                file.put(tier, &point(1_800_000_000 + step * shape.step)).unwrap();
            }
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3120 * 48);
        for (tier, shape) in TIERS.iter().enumerate() {
            assert_eq!(file.read(tier, 0, u32::MAX).unwrap().len(), shape.places as usize);
        }
    }

    proptest! {
        /// Against a plain list: whatever comes when, what is read is what is younger than the tier's reach.
        #[test]
        fn what_was_written_last_is_what_is_read(mut times in prop::collection::vec(0u32..40_000, 1..200)) {
            times.sort_unstable();
            let dir = tempfile::tempdir().unwrap();
            let file = HistoryFile::create(&dir.path().join("h")).unwrap();
            for (tier, shape) in TIERS.iter().enumerate() {
                let starts: Vec<u32> = times.iter().map(|at| shape.start_of(1_800_000_000 + at)).collect();
                for at in &starts {
                    file.put(tier, &point(*at)).unwrap();
                }
                let newest = *starts.last().unwrap();
                let from = newest - shape.reach() + shape.step;
                let mut expected: Vec<u32> = starts.into_iter().filter(|at| *at >= from).collect();
                expected.dedup();
                let found: Vec<u32> = file.read(tier, from, newest).unwrap().iter().map(|point| point.at).collect();
                prop_assert_eq!(&found, &expected);
                for at in expected {
                    prop_assert_eq!(file.get(tier, at + shape.step - 1).unwrap(), Some(point(at)));
                }
            }
        }
    }
}
