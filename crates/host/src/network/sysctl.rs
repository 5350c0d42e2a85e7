//! Kernel settings of the host that routing needs. Only what is missing is changed, and it is said in the log.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const CONNECTIONS: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const CONNECTIONS_WANTED: u64 = 1 << 20;

/// Lets the host forward packets between links.
///
/// Not switched back at shutdown: somebody else may have come to need it.
pub(super) fn enable_forwarding() -> io::Result<()> {
    let context = |error: io::Error| io::Error::new(error.kind(), format!("setting {FORWARD}: {error}"));
    if fs::read_to_string(FORWARD).map_err(context)?.trim() == "0" {
        fs::write(FORWARD, "1").map_err(context)?;
        tracing::info!("set net.ipv4.ip_forward=1: sandboxes reach the internet through this host");
    }
    Ok(())
}

/// Makes the host's connection table large enough that the shares of many sandboxes fit. Best effort: only the
/// machine's first network namespace may do so, and an entry costs memory only when it is used.
pub(super) fn enlarge_connection_table() {
    let present = fs::read_to_string(CONNECTIONS).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if present.is_none_or(|present| present >= CONNECTIONS_WANTED) {
        return;
    }
    match fs::write(CONNECTIONS, CONNECTIONS_WANTED.to_string()) {
        Ok(()) => tracing::info!("set net.netfilter.nf_conntrack_max={CONNECTIONS_WANTED}"),
        Err(error) => tracing::debug!(%error, "{CONNECTIONS} stays as it is"),
    }
}

/// Whether this kernel has IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| Path::new("/proc/sys/net/ipv6").exists())
}
