//! Whom to ask: the resolvers in the host's resolv.conf, read again when the file changes, asked in turn.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message;

/// As resolvers do: three at most, each with a few seconds, twice around for what UDP may lose.
const MOST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
const MAX_RESOLV_CONF: usize = 64 * 1024;
/// More than any resolver sends in a datagram.
const MAX_UDP_ANSWER: usize = 16 * 1024;

#[derive(Debug)]
pub struct Upstreams {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    addresses: Vec<IpAddr>,
}

impl Upstreams {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// The answer of the first resolver that has one; `None` when none has.
    pub async fn ask_udp(&self, question: &[u8]) -> Option<Vec<u8>> {
        let id = message::id(question)?;
        let addresses = self.addresses();
        for address in (0..ROUNDS).flat_map(|_| &addresses) {
            match timeout(PATIENCE, ask_udp(*address, question)).await {
                Ok(Ok(answer)) => return Some(message::with_id(answer, id)),
                Ok(Err(error)) => tracing::debug!(upstream = %address, %error, "asking for a name"),
                Err(_) => tracing::debug!(upstream = %address, "no answer in time"),
            }
        }
        None
    }

    /// The same by TCP, for answers that don't fit a datagram.
    pub async fn ask_tcp(&self, question: &[u8]) -> Option<Vec<u8>> {
        for address in &self.addresses() {
            match timeout(PATIENCE * 2, ask_tcp(*address, question)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(upstream = %address, %error, "asking for a name by TCP"),
                Err(_) => tracing::debug!(upstream = %address, "no answer by TCP in time"),
            }
        }
        None
    }

    /// The IPv4 addresses of a name, at most `most`; none when there are none or nobody answers.
    pub async fn resolve(&self, name: &str, most: usize) -> Vec<Ipv4Addr> {
        let Some(question) = message::asking_for(name) else { return Vec::new() };
        let answer = match self.ask_udp(&question).await {
            // There is more than fits.
            Some(answer) if message::is_cut(&answer) => self.ask_tcp(&question).await,
            answer => answer,
        };
        let addresses = answer.map(|answer| message::addresses(&answer, most)).unwrap_or_default();
        addresses.into_iter().map(|(address, _)| address).collect()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            known.looked = Some(Instant::now());
            let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
            if changed.is_none() || changed != known.changed {
                let text = std::fs::read_to_string(&self.path).unwrap_or_default();
                known.addresses = parse(&text);
                known.changed = changed;
                if known.addresses.is_empty() {
                    tracing::warn!(path = %self.path.display(), "no resolver is named: sandboxes can't resolve names");
                }
            }
        }
        known.addresses.clone()
    }
}

/// The addresses in a resolv.conf.
fn parse(text: &str) -> Vec<IpAddr> {
    let text = text.get(..MAX_RESOLV_CONF).unwrap_or(text);
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(address).take(MOST).collect()
}

async fn ask_udp(server: IpAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket, and so a port, and an id of its own for each question: harder to guess for who would forge an answer.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(SocketAddr::new(server, super::PORT)).await?;
    let asked = message::with_id(question.to_vec(), rand::random());
    socket.send(&asked).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if message::answers(&asked, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: IpAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SocketAddr::new(server, super::PORT)).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !message::answers(question, &answer) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "that is no answer to the question"));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolvers_of_a_resolv_conf_are_found() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1\nnameserver x\n\
                    options edns0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
    }
}
