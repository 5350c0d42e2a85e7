//! Connections that are led through a SOCKS5 proxy of the sandbox's own. The nft table has let them out before, as if there
//! were no proxy, and has changed nothing but where they end: where they were meant for is asked of the kernel.
//!
//! There is no other way: a proxy that can't be reached, or refuses, costs the sandbox its connection (a reset), and so
//! does an agent that isn't there. What is neither TCP nor for the host's forwarder of names is none of this.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

use super::{Client, Shared, socks};

/// Passes everything on, both ways, until both sides have said all or one of them is lost.
pub async fn serve(mut sandbox: TcpStream, gateway: Ipv4Addr, shared: &Shared, client: &Client) -> io::Result<()> {
    let to = sockopt::ip_original_dst(&sandbox)?;
    let proxy = client.policy.own_proxy.as_ref().ok_or_else(|| io::Error::other("nothing is led any more"))?;
    if *to.ip() == gateway || !client.policy.may_be_led_to(*to.ip()) {
        return Err(io::Error::other(format!("{to} is not to be reached")));
    }
    sandbox.set_nodelay(true)?;
    let mut way = socks::connect(shared, client, proxy, to).await.map_err(io::Error::other)?;
    tokio::io::copy_bidirectional(&mut sandbox, &mut way).await?;
    reset_when_dropped(&sandbox, false);
    Ok(())
}

/// Whether the other side learns of a loss here as one, rather than as an end.
pub fn reset_when_dropped(stream: &TcpStream, yes: bool) {
    if let Err(error) = sockopt::set_socket_linger(stream, yes.then_some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection of a sandbox can't be reset");
    }
}
