//! Kernel settings of the host that routing needs. Only what is missing is changed, and it is said in the log.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

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

/// Whether this kernel has IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| Path::new("/proc/sys/net/ipv6").exists())
}
