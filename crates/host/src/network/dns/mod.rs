//! The DNS forwarder: answers sandboxes on their gateway's address by asking the host's own resolvers.
//!
//! It keeps no cache and has no opinion on names. It serves only addresses of the gateway's own block (the nft table
//! also lets nobody else in), and bounds what is in flight, for each sandbox and together; beyond that, questions are
//! dropped, as an overloaded resolver would. [`message`] knows what a DNS message looks like, [`upstream`] whom to ask
//! and how.

mod learned;
mod message;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::admission::Admission;
use super::former::Pair;
use super::nfnetlink;
use super::policy::{Policy, Ruling};
use learned::Learned;
pub(super) use upstream::Upstreams;

const PORT: u16 = 53;
/// The longest question; real ones have a few dozen bytes.
const MAX_QUESTION: usize = 4096;
/// What may be in flight: questions by UDP, connections by TCP; together, and for one sandbox.
const UDP_TOTAL: usize = 1024;
const UDP_EACH: u32 = 64;
const TCP_TOTAL: usize = 128;
const TCP_EACH: u32 = 8;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Between two tries to bind an address that a former agent still holds.
const REBIND: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Shared {
    upstreams: Arc<Upstreams>,
    /// The nft table whose set `learned` the addresses of admitted names go to.
    table: String,
    /// How long they stay there, at least and at most.
    names_open: (Duration, Duration),
    /// Of sandboxes that have rules about names.
    policies: Mutex<HashMap<Ipv4Addr, Arc<Policy>>>,
    /// What the set `learned` holds. Held while it or a policy changes, so that no answer to an older policy's question is
    /// learned after a newer one has come.
    learned: Mutex<Learned>,
    udp: Arc<Admission>,
    tcp: Arc<Admission>,
}

/// Serves any number of gateways.
#[derive(Debug)]
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Forwarder {
    /// To be called inside a tokio runtime.
    pub fn new(resolv_conf: PathBuf, table: String, names_open: (Duration, Duration)) -> Self {
        let shared = Shared {
            table,
            names_open,
            policies: Mutex::default(),
            learned: Mutex::default(),
            upstreams: Arc::new(Upstreams::new(resolv_conf)),
            udp: Admission::new(UDP_TOTAL, UDP_EACH),
            tcp: Admission::new(TCP_TOTAL, TCP_EACH),
        };
        Self { shared: Arc::new(shared), runtime: Handle::current(), tasks: Mutex::default() }
    }

    /// The host's resolvers.
    pub fn resolver(&self) -> Arc<Upstreams> {
        self.shared.upstreams.clone()
    }

    /// Judges the sandbox's names by this from now on. What an earlier policy's names have opened is closed. Blocks for the
    /// kernel.
    pub fn set_policy(&self, sandbox: Ipv4Addr, policy: Policy) {
        let mut learned = self.shared.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for address in learned.forget(sandbox) {
            if let Err(error) = nfnetlink::remove_pair(&self.shared.table, "learned", (sandbox, address)) {
                tracing::warn!(%sandbox, %address, %error, "an address that a former name has opened stays open for a while");
            }
        }
        let mut policies = self.shared.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.judges_names() {
            policies.insert(sandbox, Arc::new(policy));
        } else {
            policies.remove(&sandbox);
        }
    }

    /// What a former agent has opened, and is open still.
    pub fn remember(&self, pairs: &[Pair]) {
        let (now, mut learned) = (Instant::now(), self.shared.learned.lock().unwrap_or_else(PoisonError::into_inner));
        for pair in pairs {
            learned.note(pair.sandbox, pair.address, now + pair.left, now);
        }
    }

    /// Serves a gateway, from when this returns or, should a former agent still hold its address, from when it lets go.
    pub fn listen(&self, gateway: Ipv4Addr) {
        let bound = bind(gateway);
        let task = self.runtime.spawn(serve(gateway, bound, Arc::clone(&self.shared)));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Ends serving; the addresses are free when this returns.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            // An aborted task answers with that; it is only waited for.
            let _ = task.await;
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// Addresses of one answer that are let through; real answers have a few.
const MAX_LEARNED: usize = 32;

impl Shared {
    fn judge(&self, source: Ipv4Addr, question: &[u8]) -> Ruling {
        let policy = self.policies.lock().unwrap_or_else(PoisonError::into_inner).get(&source).cloned();
        match (policy, message::name(question)) {
            (None, _) => Ruling::Pass,
            (Some(policy), Some(name)) => policy.judge_question(&name),
            (Some(policy), None) if policy.restricts_names() => Ruling::Refuse,
            (Some(_), None) => Ruling::Pass,
        }
    }

    /// Lets the sandbox through to the addresses in an admitted answer, before it hears of them.
    async fn learn(self: &Arc<Self>, source: Ipv4Addr, ruling: Ruling, question: &[u8], answer: Option<&[u8]>) {
        let (Ruling::Admit, Some(answer)) = (ruling, answer) else { return };
        let addresses = message::addresses(answer, MAX_LEARNED);
        let (shared, question) = (Arc::clone(self), question.to_vec());
        let adding = tokio::task::spawn_blocking(move || {
            let mut learned = shared.learned.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.judge(source, &question) != Ruling::Admit {
                return;
            }
            let now = Instant::now();
            for (address, seconds) in addresses {
                let (least, most) = shared.names_open;
                let lifetime = Duration::from_secs(seconds.into()).max(least).min(most);
                if !learned.note(source, address, now + lifetime, now) {
                    tracing::debug!(%source, "its names have opened as many addresses as one sandbox may have");
                    return;
                }
                if let Err(error) = nfnetlink::add_pair(&shared.table, "learned", (source, address), lifetime) {
                    tracing::warn!(%source, %address, %error, "an address that is allowed by name stays closed");
                }
            }
        });
        // It only blocks for the kernel; a lost task means that the agent ends.
        let _ = adding.await;
    }
}

type Sockets = (std::net::UdpSocket, std::net::TcpListener);

fn bind(gateway: Ipv4Addr) -> io::Result<Sockets> {
    let udp = std::net::UdpSocket::bind((gateway, PORT))?;
    let tcp = std::net::TcpListener::bind((gateway, PORT))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

async fn serve(gateway: Ipv4Addr, mut bound: io::Result<Sockets>, shared: Arc<Shared>) {
    let (udp, tcp) = loop {
        let sockets = bound.and_then(|(udp, tcp)| Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?)));
        match sockets {
            Ok(sockets) => break sockets,
            Err(error) => tracing::warn!(%gateway, %error, "the DNS forwarder can't bind yet"),
        }
        tokio::time::sleep(REBIND).await;
        bound = bind(gateway);
    };
    tokio::join!(serve_udp(gateway, Arc::new(udp), &shared), serve_tcp(gateway, tcp, &shared));
}

/// The sandbox that asks, if it is one: an address of the gateway's block, but not the gateway's own.
pub(super) fn block_of(gateway: Ipv4Addr, source: SocketAddr) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = source.ip() else { return None };
    let same_block = address.octets()[..3] == gateway.octets()[..3];
    (same_block && address != gateway).then_some(address)
}

async fn serve_udp(gateway: Ipv4Addr, socket: Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut buffer = vec![0; MAX_QUESTION + 1];
    loop {
        // Errors are about earlier answers that could not be delivered; a pause keeps any other from spinning.
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let Some(address) = block_of(gateway, source) else { continue };
        if length > MAX_QUESTION || !message::is_question(&buffer[..length]) {
            continue;
        }
        let Some(admitted) = shared.udp.admit(address) else { continue };
        let question = buffer[..length].to_vec();
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(shared));
        tokio::spawn(async move {
            let answer = match shared.judge(address, &question) {
                Ruling::Refuse => message::refusal(&question),
                Ruling::Proxy => message::pointing_to(&question, gateway),
                ruling => {
                    let answer = shared.upstreams.ask_udp(&question).await;
                    shared.learn(address, ruling, &question, answer.as_deref()).await;
                    answer.or_else(|| message::failure(&question))
                }
            };
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, source).await;
            }
            drop(admitted);
        });
    }
}

async fn serve_tcp(gateway: Ipv4Addr, listener: TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            // Out of descriptors, most likely: don't spin until some are free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(address) = block_of(gateway, source) else { continue };
        let Some(admitted) = shared.tcp.admit(address) else { continue };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            // It ends when the sandbox has had enough, or has been silent for too long: no error of ours.
            let _ = converse(stream, gateway, address, &shared).await;
            drop(admitted);
        });
    }
}

async fn converse(mut stream: TcpStream, gateway: Ipv4Addr, source: Ipv4Addr, shared: &Arc<Shared>) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(TCP_IDLE, stream.read_u16()).await??);
        if length > MAX_QUESTION {
            return Ok(());
        }
        let mut question = vec![0; length];
        timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
        if !message::is_question(&question) {
            return Ok(());
        }
        let answer = match shared.judge(source, &question) {
            Ruling::Refuse => message::refusal(&question),
            Ruling::Proxy => message::pointing_to(&question, gateway),
            ruling => {
                let answer = shared.upstreams.ask_tcp(&question).await;
                shared.learn(source, ruling, &question, answer.as_deref()).await;
                answer.or_else(|| message::failure(&question))
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &answer[..]].concat();
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}
