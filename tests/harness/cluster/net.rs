//! The network of a cluster: one namespace with a bridge, one namespace per machine, and a link between this process
//! and the bridge. Links are cut by dropping packets, as a broken network does: nobody is told anything.

use std::net::Ipv4Addr;
use std::process::Command;

/// A network that ends with this value.
pub struct Net {
    number: u8,
    nodes: Vec<String>,
}

fn run(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
}

impl Net {
    /// Takes the first number that is free on this machine: the test's own end of the link bears it.
    pub fn make() -> Self {
        for number in 1..=250 {
            let switch = format!("atc{number}s");
            let link = format!("atc{number}");
            if run(&format!("ip netns add {switch} 2>/dev/null")).is_err() {
                continue;
            }
            let net = Self { number, nodes: Vec::new() };
            let made = run(&format!(
                "ip link add {link} type veth peer name uplink netns {switch}
                 ip addr add {gateway}/24 dev {link}
                 ip link set {link} up
                 ip -n {switch} link set lo up
                 ip -n {switch} link add bridge type bridge
                 ip -n {switch} link set bridge up
                 ip -n {switch} link set uplink master bridge
                 ip -n {switch} link set uplink up",
                gateway = net.address(254)
            ));
            made.unwrap_or_else(|error| panic!("the cluster's network: {error}"));
            return net;
        }
        panic!("250 cluster networks are there already: see `ip netns list`");
    }

    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, last)
    }

    /// Adds a machine: a namespace with one interface. Answers with the namespace's name.
    pub fn add(&mut self, last: u8) -> String {
        let (number, address, gateway) = (self.number, self.address(last), self.address(254));
        let (name, switch) = (format!("atc{number}n{last}"), format!("atc{number}s"));
        self.nodes.push(name.clone());
        let made = run(&format!(
            "ip netns add {name}
             ip -n {switch} link add p{last} type veth peer name eth0 netns {name}
             ip -n {switch} link set p{last} master bridge
             ip -n {switch} link set p{last} up
             ip -n {name} link set lo up
             ip -n {name} addr add {address}/24 dev eth0
             ip -n {name} link set eth0 up
             ip -n {name} route add default via {gateway}"
        ));
        made.unwrap_or_else(|error| panic!("a machine of the cluster: {error}"));
        name
    }

    /// Nothing passes between the machine and `others` any more, in either direction.
    pub fn cut(&self, node: &str, others: &[Ipv4Addr]) {
        self.load(node, others, "drop", "drop");
    }

    /// What the machine sends to `others` is dropped; what they send arrives.
    pub fn mute(&self, node: &str, others: &[Ipv4Addr]) {
        self.load(node, others, "accept", "drop");
    }

    /// So many packets in a hundred get lost between the machine and `others`.
    pub fn lossy(&self, node: &str, others: &[Ipv4Addr], percent: u8) {
        let verdict = format!("numgen random mod 100 < {percent} drop");
        self.load(node, others, &verdict, &verdict);
    }

    fn load(&self, node: &str, others: &[Ipv4Addr], inward: &str, outward: &str) {
        let list = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let rules = format!(
            "add table ip cluster
             flush table ip cluster
             add chain ip cluster in {{ type filter hook input priority -300; }}
             add chain ip cluster out {{ type filter hook output priority -300; }}
             add rule ip cluster in ip saddr {{ {list} }} {inward}
             add rule ip cluster out ip daddr {{ {list} }} {outward}"
        );
        run(&format!("ip netns exec {node} nft '{rules}'")).unwrap_or_else(|error| panic!("cutting a link: {error}"));
    }

    /// The machine's links are whole again.
    pub fn heal(&self, node: &str) {
        run(&format!("ip netns exec {node} nft 'add table ip cluster; delete table ip cluster'"))
            .unwrap_or_else(|error| panic!("healing a link: {error}"));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.nodes {
            let _ = run(&format!("ip netns delete {name}"));
        }
        let _ = run(&format!("ip link delete atc{number}; ip netns delete atc{number}s", number = self.number));
    }
}
