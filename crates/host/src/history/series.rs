//! What is known of a running sandbox between two writes: its last reading, and the points that are not on disk yet.

use std::io;
use std::time::Instant;

use super::file::{HistoryFile, TIERS};
use super::point::Point;
use crate::sandboxes::machine::Use;

/// A reading, and when it was made.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub when: Instant,
    pub used: Use,
}

/// One running sandbox.
pub struct Series {
    pub last: Reading,
    /// Of the finest tier, not written yet.
    recent: Vec<Point>,
    /// Of the coarser tiers: what has been gathered since each one's point began.
    gathering: [Option<Point>; TIERS.len() - 1],
}

impl Series {
    /// Begins with a first reading. What had been gathered of the points of this moment is taken up again.
    pub fn begin(first: Reading, now: u32, file: Option<&HistoryFile>) -> Self {
        let taken_up = |tier: usize| file.and_then(|file| file.get(tier, now).ok().flatten());
        Self { last: first, recent: Vec::new(), gathering: [taken_up(1), taken_up(2)] }
    }

    /// Use of the processor between the last reading and this one, in percent of one core.
    pub fn cpu_since_last(&self, reading: &Reading) -> f32 {
        let elapsed = reading.when.saturating_duration_since(self.last.when).as_secs_f64();
        let used = reading.used.cpu_usec.saturating_sub(self.last.used.cpu_usec) as f64 / 1e6;
        if elapsed > 0.0 { (used / elapsed * 100.0) as f32 } else { 0.0 }
    }

    /// Takes a reading in. Answers the points of coarser tiers that it has completed.
    pub fn add(&mut self, now: u32, reading: Reading) -> Vec<(usize, Point)> {
        let cpu_pct = self.cpu_since_last(&reading);
        self.last = reading;
        let point = Point::of(TIERS[0].start_of(now), cpu_pct, &reading.used);
        match self.recent.last_mut() {
            // Two readings in one step: the clock was set, or a tick came late.
            Some(last) if last.at == point.at => last.absorb(&point),
            _ => self.recent.push(point),
        }
        let mut complete = Vec::new();
        for (gathered, tier) in self.gathering.iter_mut().zip(1..) {
            let reading = Point { at: TIERS[tier].start_of(now), ..point };
            match gathered {
                Some(whole) if whole.at == reading.at => whole.absorb(&reading),
                gathered => complete.extend(gathered.replace(reading).map(|done| (tier, done))),
            }
        }
        complete
    }

    /// Writes what is not on disk yet; what is still being gathered too, so that a crash costs little of it.
    ///
    /// # Errors
    /// When the disk refuses; what was not written is written the next time, as far as memory keeps it.
    pub fn write(&mut self, file: &HistoryFile) -> io::Result<()> {
        for point in &self.recent {
            file.put(0, point)?;
        }
        self.recent.clear();
        for (gathered, tier) in self.gathering.iter().zip(1..) {
            if let Some(point) = gathered {
                file.put(tier, point)?;
            }
        }
        Ok(())
    }

    /// Points in memory are bounded even when the disk refuses for long.
    pub fn forget_beyond(&mut self, most: usize) {
        let excess = self.recent.len().saturating_sub(most);
        self.recent.drain(..excess);
    }

    /// What is in memory of a tier.
    pub fn points(&self, tier: usize) -> Vec<Point> {
        match tier {
            0 => self.recent.clone(),
            tier => self.gathering.get(tier - 1).copied().flatten().into_iter().collect(),
        }
    }
}
