//! The instance's nft table: what sandboxes may reach. docs/network.md explains it line by line.
//!
//! Written out as text, loaded by `nft` in one transaction at the agent's start, and never touched rule by rule. It
//! looks only at packets of the instance's interface group, so tables of other instances and of the machine's own
//! firewall stay out of each other's way; what one of them drops is dropped.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::egress::{LED_PORT, PLAIN_PORT, TLS_PORT};
use super::former::{Opened, Pair, TALKING, pairs as pairs_of};
use super::{Ipv4Cidr, NetworkConfig, Policy, bandwidth};

/// Where no sandbox goes unless the operator allows it: what is private, local, special or reserved. (RFC 6890 and
/// the metadata services of clouds, which all live in 169.254.0.0/16, 100.64.0.0/10 or 192.0.0.0/24.)
const CLOSED: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// What goes into the table.
pub(super) struct Rules<'a> {
    pub table: &'a str,
    pub group: u32,
    pub config: &'a NetworkConfig,
    pub gateways: &'a [Ipv4Addr],
    pub denied: &'a [Ipv4Addr],
    /// Sandboxes with rules of their own.
    pub policies: &'a [(Ipv4Addr, Policy)],
    /// Sandboxes with a bandwidth of their own.
    pub capped: &'a [(Ipv4Addr, u64)],
    /// Sandboxes that the egress proxy serves.
    pub proxied: &'a [Ipv4Addr],
    /// Sandboxes whose TCP connections are led through a proxy of their own.
    pub led: &'a [Ipv4Addr],
    /// The sandbox network, should it be none of [`CLOSED`].
    pub networks: &'a [String],
}

/// Whether the address is closed to all sandboxes that the operator has not opened it to.
pub(super) fn is_closed(address: Ipv4Addr) -> bool {
    CLOSED.iter().any(|network| network.parse::<Ipv4Cidr>().is_ok_and(|network| network.contains(address)))
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements =
        if elements.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) };
    format!("  set {name} {{ type ipv4_addr; {kind} {elements} }}\n")
}

/// A set of a sandbox's address and a network each.
fn pairs(name: &str, kind: &str, elements: &[String]) -> String {
    set(name, kind, elements).replacen("type ipv4_addr;", "type ipv4_addr . ipv4_addr;", 1)
}

fn rules(policies: &[(Ipv4Addr, Policy)], allowed: bool) -> Vec<String> {
    let of = |(address, policy): &(Ipv4Addr, Policy)| {
        let (allow, deny) = policy.elements(*address);
        if allowed { allow } else { deny }
    };
    policies.iter().flat_map(of).collect()
}

/// A sandbox that has rules, with a word for them, by which the next agent knows whether what they had opened still counts.
fn policed(address: Ipv4Addr, policy: &Policy) -> String {
    format!("{address} comment \"{}\"", policy.reach())
}

/// Replaces the rules of one sandbox, in one transaction.
pub(super) fn change(table: &str, address: Ipv4Addr, old: &Policy, new: &Policy) -> io::Result<()> {
    let mut text = String::new();
    let mut say = |verb: &str, set: &str, elements: Vec<String>| {
        if !elements.is_empty() {
            text.push_str(&format!("{verb} element inet {table} {set} {{ {} }}\n", elements.join(", ")));
        }
    };
    for (verb, policy) in [("delete", old), ("add", new)] {
        let (allow, deny) = policy.elements(address);
        say(verb, "allow_rules", allow);
        say(verb, "deny_rules", deny);
        say(verb, "policed", if policy.has_rules() { vec![policed(address, policy)] } else { Vec::new() });
        say(verb, "proxied", if policy.headers.is_empty() { Vec::new() } else { vec![address.to_string()] });
        say(verb, "led", policy.own_proxy.iter().map(|_| address.to_string()).collect());
    }
    text.push_str(&bandwidth::changed(table, address, old.bandwidth, new.bandwidth));
    if text.is_empty() { Ok(()) } else { nft(&["-f", "-"], &text).map(drop) }
}

/// Ends what a sandbox has open to addresses that names had opened. Those of `learned` are gone by now, so none is added.
pub(super) fn end_talks(table: &str, address: Ipv4Addr) -> io::Result<()> {
    let talks = pairs_of(table, "talking")?.into_iter().filter(|pair| pair.sandbox == address);
    let ends = talks.map(|pair| format!("{} . {}", pair.sandbox, pair.address));
    let ends = ends.collect::<Vec<_>>().join(", ");
    if ends.is_empty() {
        return Ok(());
    }
    // One that has timed out meanwhile can't be deleted, and would keep the others.
    let text = ["add", "delete"].map(|verb| format!("{verb} element inet {table} talking {{ {ends} }}\n")).concat();
    nft(&["-f", "-"], &text).map(drop)
}

impl Rules<'_> {
    pub fn text(&self, opened: &Opened) -> String {
        let Self { table, group, config, .. } = self;
        let of_policed: Vec<_> = self.policies.iter().map(|(address, policy)| policed(*address, policy)).collect();
        let minutes = TALKING.as_secs() / 60;
        let still = |pairs: &[Pair]| pairs.iter().map(Pair::element).collect::<Vec<_>>();
        let addresses = |list: &[Ipv4Addr]| list.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>();
        let closed = CLOSED.iter().map(|cidr| (*cidr).to_owned()).chain(self.networks.iter().cloned());
        let allowed: Vec<_> = config.egress_allow.iter().map(Ipv4Cidr::to_string).collect();
        let sets = [
            set("gateways", "", &addresses(self.gateways)),
            set("denied", "", &addresses(self.denied)),
            set("closed", "flags interval; auto-merge;", &closed.collect::<Vec<_>>()),
            set("allowed", "flags interval; auto-merge;", &allowed),
            set("connections", "size 65535; flags dynamic;", &[]),
            set("proxied", "", &addresses(self.proxied)),
            set("led", "", &addresses(self.led)),
            set("policed", "", &of_policed),
            pairs("allow_rules", "flags interval;", &rules(self.policies, true)),
            pairs("deny_rules", "flags interval;", &rules(self.policies, false)),
            pairs("learned", "size 65535; flags timeout;", &still(&opened.learned)),
            pairs(
                "talking",
                &format!("size 65535; flags dynamic,timeout; timeout {minutes}m;"),
                &still(&opened.talking),
            ),
            bandwidth::declared(self.capped),
        ]
        .concat();
        let most = config.max_connections.max(1);
        let bounded = bandwidth::rules(*group, config.max_bandwidth);
        let (forwarded, to_proxies, from_proxies) = (bounded.forwarded, bounded.to_proxies, bounded.from_proxies);
        let marker = marker(*group);
        format!(
            "{}table inet {table} {{
{sets}
  chain {marker} {{ }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup != {group:#x} accept
    meta nfproto ipv6 drop
    fib saddr . iif oif missing drop
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain count {{
    ct state established accept
    ct state related icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    ct state != new drop
    add @connections {{ ip saddr ct count over {most} }} goto refuse
    accept
  }}
  chain egress {{
    oifgroup {group:#x} goto refuse
    ip saddr @denied goto refuse
    ip saddr @led meta l4proto tcp goto refuse
    ip saddr @policed goto ruled
    goto beyond
  }}
  chain ruled {{
    ip saddr . ip daddr @allow_rules goto beyond
    ip saddr . ip daddr @learned goto opened
    ct state established ip saddr . ip daddr @talking goto opened
    ip saddr . ip daddr @deny_rules goto refuse
    goto beyond
  }}
  chain opened {{
    ct state established update @talking {{ ip saddr . ip daddr }}
    goto beyond
  }}
  chain beyond {{
    ip daddr @allowed goto count
    ip daddr @closed goto refuse
    fib daddr type != unicast drop
    goto count
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{forwarded}    iifgroup {group:#x} goto egress
    oifgroup {group:#x} ct state established accept
    oifgroup {group:#x} ct state related meta l4proto icmp accept
    oifgroup {group:#x} drop
  }}
  chain names {{
    ip saddr @denied goto refuse
    goto count
  }}
  chain to_host {{
    ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 goto names
    ip saddr @proxied ip daddr @gateways tcp dport {{ {TLS_PORT}, {PLAIN_PORT} }} goto names
    ip saddr @led ip daddr @gateways tcp dport {LED_PORT} ct status dnat goto names
    ct state established accept
    ct state related icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    goto refuse
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
{to_proxies}    iifgroup {group:#x} goto to_host
    iif != \"lo\" ip daddr @gateways drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
{from_proxies}  }}
  chain lead {{
    ip saddr @denied accept
    ip saddr . ip daddr @allow_rules goto lead_beyond
    ip saddr . ip daddr @learned goto lead_beyond
    ip saddr . ip daddr @deny_rules accept
    goto lead_beyond
  }}
  chain lead_beyond {{
    fib daddr type != unicast accept
    ip daddr @allowed meta l4proto tcp dnat ip to ip saddr & 255.255.255.0 : {LED_PORT}
    ip daddr @closed accept
    meta l4proto tcp dnat ip to ip saddr & 255.255.255.0 : {LED_PORT}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifgroup {group:#x} ip saddr @proxied ip daddr @gateways tcp dport 443 dnat to :{TLS_PORT}
    iifgroup {group:#x} ip saddr @proxied ip daddr @gateways tcp dport 80 dnat to :{PLAIN_PORT}
    iifgroup {group:#x} ip saddr @led ip daddr != @gateways meta l4proto tcp goto lead
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifgroup != {group:#x} ip saddr & 255.255.255.0 @gateways masquerade
  }}
}}
",
            removal(table)
        )
    }

    /// Replaces the table, in one transaction, and with it any that was left for the same group.
    ///
    /// The group belongs to whoever has claimed its block, so another table that speaks of it is from a data directory
    /// that is gone; its rules would go on judging our packets. What names have opened under the same rules stays open, and
    /// is answered.
    pub fn load(&self) -> io::Result<Opened> {
        let mut text = String::new();
        let tables = nft(&["list", "chains", "inet"], "")?;
        let mut opened = Opened::default();
        for former in tables_with(&tables, &marker(self.group)) {
            if former == self.table {
                opened = Opened::under(former, self.policies).unwrap_or_else(|error| {
                    tracing::warn!(%error, "what names have opened can't be read: sandboxes must ask for them again");
                    Opened::default()
                });
            } else {
                tracing::warn!(table = former, "removing the rules of a data directory that is gone");
                text.push_str(&removal(former));
            }
        }
        nft(&["-f", "-"], &(text + &self.text(&opened))).map(|_| opened)
    }
}

/// An empty chain that tells which group a table is for.
fn marker(group: u32) -> String {
    format!("for_group_{group:08x}")
}

/// The tables of ours, in what `nft list chains` prints, that have a chain of this name.
fn tables_with<'a>(listing: &'a str, chain: &'a str) -> impl Iterator<Item = &'a str> {
    let mut table = None;
    listing.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("table"), Some("inet"), name) => {
                table = name.filter(|name| name.starts_with("atoll_"));
                None
            }
            (Some("chain"), Some(name), _) if name == chain => table,
            _ => None,
        }
    })
}

/// Removes the table; does nothing where there is none.
pub(super) fn remove(table: &str) -> io::Result<()> {
    nft(&["-f", "-"], &removal(table)).map(drop)
}

fn removal(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// Milliseconds between attempts.
const AGAIN_AFTER: [u64; 4] = [10, 30, 100, 300];

/// Runs `nft`; what it prints. It fails without a word when others change their tables at the same moment: then again.
pub(super) fn nft(arguments: &[&str], commands: &str) -> io::Result<String> {
    for pause in AGAIN_AFTER {
        match run_nft(arguments, commands)? {
            Err(text) if text.is_empty() => std::thread::sleep(Duration::from_millis(pause)),
            Err(text) => return Err(io::Error::other(format!("nft refused the rules: {text}"))),
            Ok(output) => return Ok(output),
        }
    }
    run_nft(arguments, commands)?.map_err(|text| io::Error::other(format!("nft refused the rules: {text}")))
}

/// What it prints, or what it says to its failure.
fn run_nft(arguments: &[&str], commands: &str) -> io::Result<Result<String, String>> {
    let context = |error: io::Error| {
        io::Error::new(error.kind(), format!("running nft: {error} (is the package nftables installed?)"))
    };
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(context)?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it ends early, what it says is the better error.
        let _ = stdin.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output().map_err(context)?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    Ok(Err(String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect()))
}
