//! The generation rule: what overtook whom.
//!
//! Control raises a sandbox's generation with each decision. An order older than the newest seen is refused, and so is
//! one with the same number but another content; the very same order again is answered again, since only its answer
//! can have been lost.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::OrderError;

/// An order's number, and what tells its content from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub generation: u64,
    pub content: String,
}

/// What an order is in view of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    New,
    /// The newest order, once more.
    Repeated,
}

/// # Errors
/// `Stale` and `Conflict`.
pub fn judge(newest: &Seen, order: &Seen) -> Result<Verdict, OrderError> {
    if order.generation > newest.generation {
        Ok(Verdict::New)
    } else if order.generation < newest.generation {
        Err(OrderError::Stale { generation: order.generation, highest: newest.generation })
    } else if order.content == newest.content {
        Ok(Verdict::Repeated)
    } else {
        Err(OrderError::Conflict { generation: order.generation })
    }
}

impl Seen {
    #[must_use]
    pub fn create(generation: u64, content: String) -> Self {
        Self { generation, content: format!("create {content}") }
    }

    #[must_use]
    pub fn pause(generation: u64) -> Self {
        Self { generation, content: "pause".to_owned() }
    }

    #[must_use]
    pub fn resume(generation: u64) -> Self {
        Self { generation, content: "resume".to_owned() }
    }

    #[must_use]
    pub fn destroy(generation: u64) -> Self {
        Self { generation, content: "destroy".to_owned() }
    }
}

/// A name for a set of sandboxes: hex SHA-256 over the lines `id state generation`, sorted. Two sides that see the same
/// set compute the same text.
#[must_use]
pub fn digest_of_set<'a>(set: impl Iterator<Item = (&'a str, &'a str, u64)>) -> String {
    let mut lines: Vec<_> = set.map(|(id, state, generation)| format!("{id} {state} {generation}\n")).collect();
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_generation_rule() {
        let newest = Seen::pause(5);
        assert_eq!(judge(&newest, &Seen::resume(6)), Ok(Verdict::New));
        assert_eq!(judge(&newest, &Seen::pause(5)), Ok(Verdict::Repeated));
        assert_eq!(judge(&newest, &Seen::resume(5)), Err(OrderError::Conflict { generation: 5 }));
        assert_eq!(judge(&newest, &Seen::pause(4)), Err(OrderError::Stale { generation: 4, highest: 5 }));
        let created = Seen::create(1, "a".to_owned());
        assert_eq!(judge(&created, &Seen::create(1, "a".to_owned())), Ok(Verdict::Repeated));
        assert_eq!(judge(&created, &Seen::create(1, "b".to_owned())), Err(OrderError::Conflict { generation: 1 }));
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_but_on_everything_else() {
        let a = [("sb-a", "running", 1), ("sb-b", "paused", 2)];
        let b = [("sb-b", "paused", 2), ("sb-a", "running", 1)];
        assert_eq!(digest_of_set(a.into_iter()), digest_of_set(b.into_iter()));
        assert_ne!(digest_of_set(a.into_iter()), digest_of_set([("sb-a", "running", 1)].into_iter()));
    }

    proptest! {
        #[test]
        fn whatever_arrives_in_whatever_order_the_generation_never_falls(orders in prop::collection::vec((0_u64..8, 0_u8..4), 0..50)) {
            let mut newest = Seen::create(0, String::new());
            for (generation, kind) in orders {
                let order = match kind {
                    0 => Seen::create(generation, String::new()),
                    1 => Seen::pause(generation),
                    2 => Seen::resume(generation),
                    _ => Seen::destroy(generation),
                };
                if judge(&newest, &order) == Ok(Verdict::New) {
                    prop_assert!(order.generation > newest.generation);
                    newest = order;
                }
            }
        }
    }
}
