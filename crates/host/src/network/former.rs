//! What names have opened, as the kernel remembers it: an agent that begins carries that over from the table of the one
//! before, for sandboxes whose rules are the same, so that what they have open goes on and what they have asked counts.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use super::Policy;
use super::rules::nft;

/// How long an address stays in `talking` after the last word.
pub(super) const TALKING: Duration = Duration::from_mins(10);

/// A sandbox, and an address that is open to it for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub sandbox: Ipv4Addr,
    pub address: Ipv4Addr,
    pub lifetime: Duration,
    pub left: Duration,
}

impl Pair {
    /// As an element of its set.
    pub fn element(&self) -> String {
        let seconds = |time: Duration| time.as_secs().max(1);
        format!(
            "{} . {} timeout {}s expires {}s",
            self.sandbox,
            self.address,
            seconds(self.lifetime),
            seconds(self.left)
        )
    }
}

/// Of `learned` and `talking`.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub learned: Vec<Pair>,
    pub talking: Vec<Pair>,
}

impl Opened {
    /// What a table holds for sandboxes that have these rules, and had them when it was last changed.
    pub fn under(table: &str, policies: &[(Ipv4Addr, Policy)]) -> io::Result<Self> {
        let said = elements(table, "policed")?;
        let said: HashMap<_, _> = said.iter().filter_map(ruled).collect();
        let same = policies.iter().filter(|(address, policy)| said.get(address) == Some(&policy.reach().as_str()));
        let same: HashSet<_> = same.map(|(address, _)| *address).collect();
        if same.is_empty() {
            return Ok(Self::default());
        }
        let of = |set: &str| {
            let pairs = pairs(table, set)?;
            io::Result::Ok(pairs.into_iter().filter(|pair| same.contains(&pair.sandbox)).collect())
        };
        Ok(Self { learned: of("learned")?, talking: of("talking")? })
    }
}

/// What a set holds of pairs.
pub(super) fn pairs(table: &str, set: &str) -> io::Result<Vec<Pair>> {
    Ok(elements(table, set)?.iter().filter_map(pair).collect())
}

fn elements(table: &str, set: &str) -> io::Result<Vec<Value>> {
    let shown: Value = serde_json::from_str(&nft(&["-j", "list", "set", "inet", table, set], "")?)?;
    let sets = shown["nftables"].as_array().into_iter().flatten();
    Ok(sets.filter_map(|it| it["set"]["elem"].as_array()).flatten().cloned().collect())
}

fn pair(element: &Value) -> Option<Pair> {
    let element = &element["elem"];
    let address = |number: usize| element["val"]["concat"][number].as_str()?.parse().ok();
    let seconds = |name: &str| element[name].as_u64().map(Duration::from_secs);
    // What has the time of all in its set is shown without.
    let lifetime = seconds("timeout").unwrap_or(TALKING);
    Some(Pair { sandbox: address(0)?, address: address(1)?, lifetime, left: seconds("expires").unwrap_or(lifetime) })
}

/// A sandbox that has rules, and the word for them.
fn ruled(element: &Value) -> Option<(Ipv4Addr, &str)> {
    let element = &element["elem"];
    Some((element["val"].as_str()?.parse().ok()?, element["comment"].as_str()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_are_read_as_nft_shows_them_and_written_as_it_takes_them() {
        let shown = json!({"elem": {"val": {"concat": ["10.0.0.2", "203.0.113.1"]}, "timeout": 600, "expires": 42}});
        let read = pair(&shown).unwrap();
        assert_eq!(read.element(), "10.0.0.2 . 203.0.113.1 timeout 600s expires 42s");
        let over = Pair { left: Duration::ZERO, ..read };
        assert!(over.element().ends_with("expires 1s"), "nothing would be for ever");
        let shown = json!({"elem": {"val": {"concat": ["10.0.0.2", "203.0.113.1"]}, "expires": 599}});
        assert_eq!(pair(&shown).unwrap().element(), "10.0.0.2 . 203.0.113.1 timeout 600s expires 599s");
        for strange in [json!("10.0.0.2"), json!({"elem": {"val": {"concat": ["10.0.0.2"]}, "timeout": 1}})] {
            assert_eq!((pair(&strange), ruled(&strange)), (None, None));
        }
        let shown = json!({"elem": {"val": "10.0.0.2", "comment": "abc"}});
        assert_eq!(ruled(&shown), Some((Ipv4Addr::new(10, 0, 0, 2), "abc")));
    }
}
