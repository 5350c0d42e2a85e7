//! How fast a sandbox may send to the world and get from there: the part of the nft table that says it.
//!
//! Two bounds stand one behind the other, so that the smaller counts: one rate for every sandbox of the host
//! (`--sandbox-bandwidth`), each with an account of its own in a set, and a rate that a sandbox's policy names, which is a
//! limit of the sandbox's name in the table, found by its address in a map. What is beyond is dropped, and TCP slows down to
//! it. Both bound what is forwarded, and what goes by way of this host's proxies; not questions for names, which have bounds
//! of their own, nor what the agent carries in and out.

use std::net::Ipv4Addr;

use atoll_model::api::sandboxes::BANDWIDTH;

use super::egress::{LED_PORT, TLS_PORT};

/// A direction, and where a packet that goes there has the sandbox's address.
const DIRECTIONS: [(&str, &str); 2] = [("sent", "saddr"), ("received", "daddr")];

/// Lines of the chains that see what is forwarded, what arrives at the host, and what it sends.
pub(super) struct Bounds {
    pub forwarded: String,
    pub to_proxies: String,
    pub from_proxies: String,
}

/// The table's rules; `all` is the host's bound for each sandbox.
pub(super) fn rules(group: u32, all: Option<u64>) -> Bounds {
    let [sent, received] = DIRECTIONS.map(|(direction, end)| {
        let own = format!("limit name ip {end} map @own_{direction} drop");
        let all = all.map(|rate| format!("update @{direction} {{ ip {end} limit {} }} drop", over(rate)));
        [Some(own), all].into_iter().flatten().collect::<Vec<_>>()
    });
    let lines = |matched: &str, limits: &[String]| {
        limits.iter().map(|limit| format!("    {matched} {limit}\n")).collect::<String>()
    };
    let (from, to) = (format!("iifgroup {group:#x}"), format!("oifgroup {group:#x}"));
    let ports = format!("{{ {TLS_PORT}, {LED_PORT} }}");
    Bounds {
        forwarded: lines(&from, &sent) + &lines(&to, &received),
        to_proxies: lines(&format!("{from} tcp dport {ports}"), &sent),
        from_proxies: lines(&format!("{to} tcp sport {ports}"), &received),
    }
}

/// The table's sets, maps and limits, as they are at its beginning.
pub(super) fn declared(capped: &[(Ipv4Addr, u64)]) -> String {
    let declare = |(direction, _)| {
        let limits = capped.iter().map(|(address, rate)| {
            let name = name(direction, *address);
            format!("  limit {name} {{ {} }}\n", over(*rate))
        });
        let elements: Vec<_> = capped.iter().map(|(address, _)| element(direction, *address)).collect();
        let elements =
            if elements.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) };
        format!(
            "{}  map own_{direction} {{ type ipv4_addr : limit; {elements} }}
  set {direction} {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
",
            limits.collect::<String>()
        )
    };
    DIRECTIONS.map(declare).concat()
}

/// What takes one sandbox from a rate to another, in words of `nft`. A limit can't be changed, only replaced.
pub(super) fn changed(table: &str, address: Ipv4Addr, old: Option<u64>, new: Option<u64>) -> String {
    if old == new {
        return String::new();
    }
    let change = |(direction, _)| {
        let (name, element) = (name(direction, address), element(direction, address));
        let mut text = String::new();
        if old.is_some() {
            text.push_str(&format!("delete element inet {table} own_{direction} {{ {element} }}\n"));
            text.push_str(&format!("delete limit inet {table} {name}\n"));
        }
        if let Some(rate) = new {
            text.push_str(&format!("add limit inet {table} {name} {{ {}; }}\n", over(rate)));
            text.push_str(&format!("add element inet {table} own_{direction} {{ {element} }}\n"));
        }
        text
    };
    DIRECTIONS.map(change).concat()
}

fn name(direction: &str, address: Ipv4Addr) -> String {
    format!("{direction}_{address}")
}

fn element(direction: &str, address: Ipv4Addr) -> String {
    format!("{address} : \"{}\"", name(direction, address))
}

fn over(rate: u64) -> String {
    // The kernel counts no faster ones: it would overflow.
    let rate = rate.clamp(1, BANDWIDTH.1);
    // A quarter of a second at once, and a few of the largest packets at least.
    format!("rate over {rate} bytes/second burst {} bytes", (rate / 4).max(256 << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 112, 7);

    #[test]
    fn a_change_of_something_else_lets_a_limit_count_on() {
        for rate in [None, Some(5_000)] {
            assert_eq!(changed("t", ADDRESS, rate, rate), "");
        }
    }

    #[test]
    fn a_rate_that_changes_takes_the_old_limit_away_before_the_new_one_comes() {
        let verbs = |old, new| {
            let text = changed("t", ADDRESS, old, new);
            text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let (gone, made) = (["delete element", "delete limit"], ["add limit", "add element"]);
        assert_eq!(verbs(None, Some(5_000)), [made, made].concat());
        assert_eq!(verbs(Some(5_000), None), [gone, gone].concat());
        assert_eq!(verbs(Some(5_000), Some(6_000)), [gone, made, gone, made].concat());
    }

    #[test]
    fn no_rate_is_beyond_what_the_kernel_counts() {
        assert_eq!(over(0), "rate over 1 bytes/second burst 262144 bytes");
        assert_eq!(over(u64::MAX), over(BANDWIDTH.1));
        // Nanoseconds times (rate and burst) is kept in 64 bits, a burst in 32.
        let (rate, burst) = (BANDWIDTH.1, BANDWIDTH.1 / 4);
        assert!((rate + burst).checked_mul(1_000_000_000).is_some() && u32::try_from(burst).is_ok());
    }
}
