//! Which addresses sandboxes are let through to because a name of theirs has them: what the table's set `learned` holds,
//! so that it can be taken out again.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Instant;

/// Of one sandbox: the set is for all, and nobody may fill it alone.
const MAX_EACH: usize = 1024;

#[derive(Debug, Default)]
pub struct Learned(HashMap<Ipv4Addr, HashMap<Ipv4Addr, Instant>>);

impl Learned {
    /// Notes that the sandbox is let through to the address until then. False when it has too many already.
    pub fn note(&mut self, sandbox: Ipv4Addr, address: Ipv4Addr, until: Instant, now: Instant) -> bool {
        let its = self.0.entry(sandbox).or_default();
        if its.len() >= MAX_EACH && !its.contains_key(&address) {
            its.retain(|_, until| *until > now);
            if its.len() >= MAX_EACH {
                return false;
            }
        }
        its.insert(address, until);
        true
    }

    /// Forgets a sandbox, and answers what it was let through to.
    pub fn forget(&mut self, sandbox: Ipv4Addr) -> Vec<Ipv4Addr> {
        self.0.remove(&sandbox).map(|its| its.into_keys().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_sandbox_has_its_share_until_its_oldest_are_over() {
        let (mut learned, now) = (Learned::default(), Instant::now());
        let (one, other) = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        let address = |number: usize| Ipv4Addr::from(0x0800_0000 + u32::try_from(number).unwrap());
        let minute = now + Duration::from_secs(60);
        assert!((0..MAX_EACH).all(|number| learned.note(one, address(number), minute, now)));
        assert!(!learned.note(one, address(MAX_EACH), minute, now));
        assert!(learned.note(one, address(0), minute, now), "one that it has can be had for longer");
        assert!(learned.note(other, address(0), minute, now));
        let later = minute + Duration::from_secs(1);
        assert!(learned.note(one, address(MAX_EACH), later + Duration::from_secs(60), later));
        assert_eq!(learned.forget(one), [address(MAX_EACH)]);
        assert_eq!((learned.forget(one).len(), learned.forget(other).len()), (0, 1));
    }
}
