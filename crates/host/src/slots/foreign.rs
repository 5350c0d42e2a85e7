//! What the machine uses otherwise: subordinate ids, routes, and what lives in a block that nobody claims.
//!
//! Only reads. A file that is missing means that nothing is used.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use super::SandboxNetwork;

/// Shorter prefixes say "everything" (a default route, or the two halves that VPNs set), not "this is mine".
const SHORTEST_PREFIX: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// Half-open ranges of user and group ids.
    ids: Vec<(u64, u64)>,
    /// Network and mask of each route.
    routes: Vec<(u32, u32)>,
    /// Ids that own a process.
    living: Vec<u32>,
    links: Vec<String>,
}

/// The id of the machine's present boot.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}

impl Foreign {
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let mut ids = subordinate_ids(&text("/etc/subuid"));
        ids.extend(subordinate_ids(&text("/etc/subgid")));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
        let living = processes.filter_map(|entry| entry.metadata().ok().map(|meta| meta.uid())).collect();
        let devices = text("/proc/self/net/dev");
        let links = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
        Self { ids, routes: routes(&text("/proc/self/net/route")), living, links }
    }

    /// Whether the block's ids or addresses belong to something that is not Atoll.
    pub fn overlaps(&self, block: u8, network: SandboxNetwork) -> bool {
        let (first, end) = (u64::from(block) << 24, (u64::from(block) + 1) << 24);
        let ours = u32::from(network.gateway(block));
        self.ids.iter().any(|&(start, stop)| start < end && first < stop)
            || self.routes.iter().any(|&(base, mask)| {
                let common = mask & 0xffff_ff00;
                mask.leading_ones() >= SHORTEST_PREFIX && base & common == ours & common && !self.is_our_route(base)
            })
    }

    /// A host route to a sandbox: the claim tells who has it, not the route.
    fn is_our_route(&self, base: u32) -> bool {
        let [_, _, block, index] = Ipv4Addr::from(base).octets();
        let name = format!("atl{block:02x}{index:02x}");
        self.links.contains(&name)
    }

    /// Whether a process or a link of the block is there, whoever made it.
    pub fn lives(&self, block: u8) -> bool {
        let prefix = format!("atl{block:02x}");
        self.living.iter().any(|id| id >> 24 == u32::from(block))
            || self.links.iter().any(|link| link.starts_with(&prefix))
    }
}

/// The ranges of an /etc/subuid: `name:first:count` per line.
fn subordinate_ids(text: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| -> Option<(u64, u64)> {
        let mut fields = line.split('#').next()?.trim().split(':').skip(1);
        let first: u64 = fields.next()?.parse().ok()?;
        let count: u64 = fields.next()?.parse().ok()?;
        Some((first, first.saturating_add(count)))
    };
    text.lines().filter_map(range).collect()
}

/// The routes of /proc/net/route, which prints addresses as they lie in memory.
fn routes(text: &str) -> Vec<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let route = |line: &str| -> Option<(u32, u32)> {
        let fields: Vec<_> = line.split_whitespace().collect();
        Some((number(fields.get(1)?)?, number(fields.get(7)?)?))
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_with_subordinate_ids_of_the_machine_is_left_alone() {
        // 1879048192 is 0x70000000, 1912602624 is 0x72000000.
        let foreign = Foreign {
            ids: subordinate_ids("a:100000:65536\nb:1879048192:65536\n\nbad\nc:1912602623:2 # both\n"),
            ..Foreign::default()
        };
        let network = SandboxNetwork::default();
        let overlapping: Vec<_> = (0x70..0x76).filter(|block| foreign.overlaps(*block, network)).collect();
        assert_eq!(overlapping, [0x70, 0x71, 0x72]);
    }

    #[test]
    fn a_block_whose_addresses_the_machine_routes_is_left_alone() {
        let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let line = |destination, mask| format!("eth0 {destination} 00000000 0001 0 0 0 {mask} 0 0 0\n");
        // A default route, half of everything, 198.18.112.64/26 and 198.18.128.0/17.
        let text = [header, &line("00000000", "00000000"), &line("00000080", "00000080")].concat()
            + &line("407012C6", "C0FFFFFF")
            + &line("008012C6", "0080FFFF");
        let foreign = Foreign { routes: routes(&text), ..Foreign::default() };
        let network = SandboxNetwork::default();
        assert!(foreign.overlaps(0x70, network));
        assert!(!foreign.overlaps(0x71, network));
        assert!(foreign.overlaps(0x80, network) && foreign.overlaps(0xfe, network));
        assert!(!foreign.overlaps(0x80, "10.9.0.0/16".parse().unwrap()));
    }

    #[test]
    fn a_process_or_a_link_keeps_a_block_alive() {
        let foreign =
            Foreign { living: vec![0, 0x7201_0000], links: vec!["lo".into(), "atl7105".into()], ..Foreign::default() };
        assert!(!foreign.lives(0x70));
        assert!(foreign.lives(0x71) && foreign.lives(0x72));
    }
}
