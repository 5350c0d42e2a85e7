//! One point of a sandbox's history, and the 48 bytes that it takes on disk.

use crate::sandboxes::machine::Use;

/// Bytes of a point in a file.
pub const SIZE: usize = 48;
/// Part of every checksum: points of another layout are not understood, and read as empty places.
const LAYOUT: u32 = 0x6174_6c31;

/// What a sandbox used in the seconds from `at` on, as many as its tier's step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// Seconds since 1970.
    pub at: u32,
    /// Of one core, the mean: 200 is two cores.
    pub cpu_pct: f32,
    /// The highest that was seen, so that a short peak is not averaged away.
    pub memory_bytes: u64,
    /// The last that was seen.
    pub disk_bytes: u64,
    /// Since its processes began, like `sent_bytes`.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// The most that were seen.
    pub processes: u16,
    /// Readings that it was made of.
    pub readings: u16,
}

impl Point {
    /// A reading by itself.
    #[must_use]
    pub fn of(at: u32, cpu_pct: f32, used: &Use) -> Self {
        Self {
            at,
            cpu_pct,
            memory_bytes: used.memory_bytes,
            disk_bytes: used.disk_bytes,
            received_bytes: used.received_bytes,
            sent_bytes: used.sent_bytes,
            processes: u16::try_from(used.processes).unwrap_or(u16::MAX),
            readings: 1,
        }
    }

    /// Takes a later reading of the same stretch of time in.
    pub fn absorb(&mut self, later: &Self) {
        let (before, more) = (f32::from(self.readings), f32::from(later.readings));
        if before + more > 0.0 {
            self.cpu_pct = (self.cpu_pct * before + later.cpu_pct * more) / (before + more);
        }
        self.memory_bytes = self.memory_bytes.max(later.memory_bytes);
        self.disk_bytes = later.disk_bytes;
        self.received_bytes = later.received_bytes;
        self.sent_bytes = later.sent_bytes;
        self.processes = self.processes.max(later.processes);
        self.readings = self.readings.saturating_add(later.readings);
    }

    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0..4].copy_from_slice(&self.at.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.cpu_pct.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.memory_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.disk_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.received_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sent_bytes.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.processes.to_le_bytes());
        bytes[42..44].copy_from_slice(&self.readings.to_le_bytes());
        let sum = checksum(&bytes[..44]);
        bytes[44..48].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// None for an empty place, and for one that a power cut has torn.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let cpu_pct = f32::from_bits(word(4));
        let sound = word(44) == checksum(&bytes[..44]) && cpu_pct.is_finite() && cpu_pct >= 0.0;
        sound.then(|| Self {
            at: word(0),
            cpu_pct,
            memory_bytes: long(8),
            disk_bytes: long(16),
            received_bytes: long(24),
            sent_bytes: long(32),
            processes: half(40),
            readings: half(42),
        })
    }
}

/// FNV-1a: it finds torn writes, nothing cleverer is asked of it.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5 ^ LAYOUT, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_point_comes_back_as_it_was(
            at in any::<u32>(), cpu_pct in 0f32..100_000.0, numbers in any::<[u64; 4]>(), small in any::<[u16; 2]>(),
        ) {
            let [memory_bytes, disk_bytes, received_bytes, sent_bytes] = numbers;
            let [processes, readings] = small;
            let point = Point {
                at, cpu_pct, memory_bytes, disk_bytes, received_bytes, sent_bytes, processes, readings,
            };
            prop_assert_eq!(Point::decode(&point.encode()), Some(point));
        }

        #[test]
        fn damaged_bytes_are_no_point(flip in 0..SIZE * 8, at in any::<u32>()) {
            let mut bytes = Point { at, memory_bytes: 7, ..Point::default() }.encode();
            bytes[flip / 8] ^= 1 << (flip % 8);
            prop_assert_eq!(Point::decode(&bytes), None);
        }

        #[test]
        fn bytes_of_anything_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Point::decode(&bytes);
        }
    }

    #[test]
    fn an_empty_place_is_no_point() {
        assert_eq!(Point::decode(&[0; SIZE]), None);
    }

    #[test]
    fn a_stretch_of_time_has_the_mean_of_the_cpu_and_the_peak_of_the_memory() {
        let reading = |cpu_pct, memory_bytes, disk_bytes| {
            let used = Use { memory_bytes, disk_bytes, ..Use::default() };
            Point::of(60, cpu_pct, &used)
        };
        let mut whole = reading(90.0, 10, 1);
        whole.absorb(&reading(0.0, 30, 5));
        whole.absorb(&reading(0.0, 20, 3));
        assert_eq!((whole.cpu_pct, whole.memory_bytes, whole.disk_bytes, whole.readings), (30.0, 30, 3, 3));
    }
}
