//! The egress proxy: adds headers to requests that sandboxes send to given names, so that no sandbox sees the secrets in
//! them.
//!
//! A name of which a policy says so is answered by the DNS forwarder with the gateway's own address, and the nft table
//! leads ports 443 and 80 there to this proxy. It speaks TLS as the name, with a certificate of this host's own
//! [`Authority`], which the guest trusts; asks the real server, whose certificate it checks as anybody would; and passes
//! everything on, both ways, as it comes. What a sandbox may not reach, it does not reach this way either
//! ([`upstream`]). Over plain HTTP nothing is added: whoever asks is sent to HTTPS.
//!
//! A policy may name a SOCKS5 proxy of the sandbox's own. The table leads the TCP connections that it lets out to a third
//! port here, from where they go through that proxy ([`led`], [`socks`]), as what this proxy itself asks does then.

mod authority;
mod exchange;
pub(super) mod identities;
mod led;
mod socks;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::ClientConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::dns::{Upstreams, block_of};
use super::policy::{AddedHeader, HeaderPart, Policy, Ruling};
use super::{Ipv4Cidr, NetworkConfig, rules};
use authority::Authority;
use identities::Tokens;

/// Where the table leads connections to. Beyond the ports that Linux gives out by itself.
pub(super) const TLS_PORT: u16 = 64443;
pub(super) const PLAIN_PORT: u16 = 64080;
pub(super) const LED_PORT: u16 = 64081;
/// Connections, together and of one sandbox.
const TOTAL: usize = 2048;
const EACH: u32 = 128;
/// Of those that are led through proxies of sandboxes' own.
const LED_TOTAL: usize = 8192;
const LED_EACH: u32 = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two tries to bind an address that a former agent still holds.
const REBIND: Duration = Duration::from_millis(200);
/// Of a plain request, as much as is looked at.
const MAX_PLAIN: usize = 16 * 1024;

/// A sandbox whose requests get headers, or whose connections are led, as long as its policy stays as it is.
struct Client {
    address: Ipv4Addr,
    policy: Policy,
    /// How its own proxy is judged, where it speaks TLS.
    proxy_tls: OnceLock<Arc<ClientConfig>>,
    /// Ends its connections when its policy changes.
    cut: CancellationToken,
}

impl Client {
    fn new(address: Ipv4Addr, policy: Policy) -> Self {
        Self { address, policy, proxy_tls: OnceLock::new(), cut: CancellationToken::new() }
    }

    /// What is added to requests to this name; nothing when it is none of those, or denied.
    fn additions<'a>(&'a self, name: &'a str) -> Option<HeaderMap<&'a AddedHeader>> {
        if matches!(self.policy.judge(name), Ruling::Refuse) {
            return None;
        }
        let mut headers = HeaderMap::default();
        for header in self.policy.headers_for(name) {
            // It was checked when the order was read.
            if let Ok(name) = header.name.parse::<HeaderName>() {
                headers.insert(name, header);
            }
        }
        (!headers.is_empty()).then_some(headers)
    }
}

/// The value of a header, with tokens of the identities in it.
async fn value_of(header: &AddedHeader, tokens: &Tokens) -> Result<HeaderValue, String> {
    let mut text = header.value.clone();
    for part in &header.parts {
        match part {
            HeaderPart::Text(piece) => text.push_str(piece),
            HeaderPart::Identity(identity) => text.push_str(&tokens.of(identity).await?),
        }
    }
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| format!("what `{}` gets is no header's value", header.name))?;
    value.set_sensitive(true);
    Ok(value)
}

struct Shared {
    clients: Mutex<HashMap<Ipv4Addr, Arc<Client>>>,
    authority: Authority,
    resolver: Arc<Upstreams>,
    /// `--egress-allow`.
    allowed: Vec<Ipv4Cidr>,
    places: Arc<Admission>,
    led_places: Arc<Admission>,
    tls: OnceLock<Arc<ClientConfig>>,
    tokens: Tokens,
}

impl Shared {
    fn client(&self, address: Ipv4Addr) -> Option<Arc<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    /// How real servers are judged. Reads the machine's certificates the first time.
    fn tls(&self) -> Arc<ClientConfig> {
        let config = || {
            let mut config = crate::agent::trust::public_client_config();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(config)
        };
        self.tls.get_or_init(config).clone()
    }
}

/// Serves any number of gateways.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl Proxy {
    /// To be called inside a tokio runtime.
    pub fn new(data_dir: &Path, config: &NetworkConfig, resolver: Arc<Upstreams>) -> Self {
        let shared = Shared {
            clients: Mutex::default(),
            authority: Authority::new(data_dir),
            resolver,
            allowed: config.egress_allow.clone(),
            places: Admission::new(TOTAL, EACH),
            led_places: Admission::new(LED_TOTAL, LED_EACH),
            tls: OnceLock::new(),
            tokens: Tokens::new(config.identities.clone()),
        };
        Self { shared: Arc::new(shared), runtime: Handle::current(), tasks: Mutex::default() }
    }

    /// The certificate that sandboxes must trust. Blocks for the disk the first time.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn authority(&self) -> io::Result<String> {
        self.shared.authority.pem()
    }

    /// Serves the sandbox by this policy from now on. What it has open by another ends.
    pub fn set_policy(&self, sandbox: Ipv4Addr, policy: &Policy) {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.get(&sandbox).is_some_and(|client| client.policy == *policy) {
            return;
        }
        if let Some(former) = clients.remove(&sandbox) {
            former.cut.cancel();
        }
        if policy.is_served() {
            clients.insert(sandbox, Arc::new(Client::new(sandbox, policy.clone())));
        }
    }

    /// Serves a gateway, from when this returns or, should a former agent still hold its address, from when it lets go.
    pub fn listen(&self, gateway: Ipv4Addr) {
        for port in [TLS_PORT, PLAIN_PORT, LED_PORT] {
            let bound = bind(gateway, port);
            let task = self.runtime.spawn(serve(gateway, port, bound, self.shared.clone()));
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }
    }

    /// Ends serving; the addresses are free when this returns.
    pub async fn stop(&self) {
        for (_, client) in self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            client.cut.cancel();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            let _ended = task.await;
        }
    }
}

fn bind(gateway: Ipv4Addr, port: u16) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((gateway, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(gateway: Ipv4Addr, port: u16, mut bound: io::Result<std::net::TcpListener>, shared: Arc<Shared>) {
    let listener = loop {
        match bound.and_then(TcpListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => tracing::warn!(%gateway, port, %error, "the egress proxy can't bind yet"),
        }
        tokio::time::sleep(REBIND).await;
        bound = bind(gateway, port);
    };
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            // Out of descriptors, most likely: don't spin until some are free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let places = if port == LED_PORT { &shared.led_places } else { &shared.places };
        if port == LED_PORT {
            led::reset_when_dropped(&stream, true);
        }
        let Some(client) = block_of(gateway, source).and_then(|address| shared.client(address)) else { continue };
        let Some(place) = places.admit(client.address) else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            let cut = client.cut.clone();
            let talk = async {
                match port {
                    TLS_PORT => secure(stream, &shared, client).await,
                    PLAIN_PORT => plain(stream).await,
                    _ => led::serve(stream, gateway, &shared, &client).await,
                }
            };
            tokio::select! {
                ended = talk => if let Err(error) = ended {
                    tracing::debug!(%source, %error, "a connection of a sandbox through the egress proxy ended");
                },
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn secure(stream: TcpStream, shared: &Arc<Shared>, client: Arc<Client>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (name, stream) = timeout(HANDSHAKE, async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = hello.client_hello().server_name().map(str::to_ascii_lowercase);
        let known = name.filter(|name| client.additions(name).is_some());
        let name = known.ok_or_else(|| io::Error::other("it asks for a name that is not served here"))?;
        let (authority, asked) = (shared.clone(), name.clone());
        let config = tokio::task::spawn_blocking(move || authority.authority.server(&asked)).await;
        let config = config.map_err(io::Error::other)??;
        Ok::<_, io::Error>((name, hello.into_stream(config).await?))
    })
    .await??;
    exchange::serve(stream, name, shared.clone(), client).await
}

/// Says where to go instead, whatever was asked.
async fn plain(mut stream: TcpStream) -> io::Result<()> {
    let answer = timeout(HANDSHAKE, redirect(&mut stream)).await??;
    timeout(HANDSHAKE, stream.write_all(answer.as_bytes())).await??;
    stream.shutdown().await
}

async fn redirect(stream: &mut TcpStream) -> io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= MAX_PLAIN || stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let to = secure_address(&String::from_utf8_lossy(&head));
    let text = "secrets are added to requests over HTTPS only\n";
    let (status, location) = match to {
        Some(to) => ("308 Permanent Redirect", format!("Location: {to}\r\n")),
        None => ("400 Bad Request", String::new()),
    };
    Ok(format!(
        "HTTP/1.1 {status}\r\n{location}Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    ))
}

/// The HTTPS address of what a plain request asks for.
fn secure_address(head: &str) -> Option<String> {
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1).filter(|target| target.starts_with('/'))?;
    let host = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
    })?;
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (is_name && plain(target)).then(|| format!("https://{host}{target}"))
}

/// Whether the policy and the operator let the sandbox reach this address under this name: what the table says of packets
/// that it forwards.
fn may_reach(client: &Client, allowed: &[Ipv4Cidr], name: &str, address: Ipv4Addr) -> bool {
    let Policy { closed, allow, deny, .. } = &client.policy;
    let any = |networks: &[Ipv4Cidr]| networks.iter().any(|network| network.contains(address));
    let named = matches!(client.policy.judge(name), Ruling::Admit);
    if *closed || (!named && !any(allow) && any(deny)) {
        return false;
    }
    is_open(allowed, address)
}

/// Whether the operator lets sandboxes reach this address at all.
fn is_open(allowed: &[Ipv4Cidr], address: Ipv4Addr) -> bool {
    allowed.iter().any(|network| network.contains(address)) || !rules::is_closed(address)
}

/// Whether the address is one of this host, whose own services no sandbox reaches.
fn is_own(address: Ipv4Addr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    fn client(policy: Policy) -> Client {
        Client::new(Ipv4Addr::new(198, 18, 0, 2), policy)
    }

    fn adds(domain: &str, name: &str, value: &str) -> AddedHeader {
        AddedHeader { domain: domain.to_owned(), name: name.to_owned(), value: value.to_owned(), parts: Vec::new() }
    }

    #[tokio::test]
    async fn a_name_gets_what_is_said_of_it_and_the_last_word_counts() {
        let headers = vec![
            adds("*.example.com", "Authorization", "all"),
            adds("api.example.com", "authorization", "one"),
            adds("api.example.com", "X-More", "two"),
        ];
        let mut policy = Policy { headers, ..Policy::default() };
        let one = client(policy.clone());
        let found = one.additions("api.example.com").unwrap();
        assert_eq!(
            (found.len(), found["authorization"].value.as_str(), found["x-more"].value.as_str()),
            (2, "one", "two")
        );
        assert!(value_of(found["authorization"], &Tokens::new(None)).await.unwrap().is_sensitive());
        assert_eq!(one.additions("www.example.com").unwrap()["authorization"].value, "all");
        assert!(one.additions("example.com").is_none() && one.additions("evil.net").is_none());
        assert!(!format!("{policy:?}").contains("\"one\""), "values don't show in logs");
        policy.deny_names = vec!["*.example.com".to_owned()];
        assert!(client(policy).additions("api.example.com").is_none(), "what is denied is denied");
    }

    #[test]
    fn the_way_through_the_proxy_is_no_way_around_the_policy() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Ipv4Cidr>>();
        let public = Ipv4Addr::new(203, 0, 113, 7);
        let reach = |policy: &Policy, allowed: &[&str], address: Ipv4Addr| {
            may_reach(&client(policy.clone()), &nets(allowed), "api.example.com", address)
        };
        let open = Policy::default();
        assert!(reach(&open, &[], public));
        for closed in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "224.0.0.1", "100.64.0.1", "0.0.0.0"]
        {
            assert!(!reach(&open, &[], closed.parse().unwrap()), "{closed}");
        }
        assert!(reach(&open, &["10.0.0.0/24"], Ipv4Addr::new(10, 0, 0, 1)), "as the operator allows");
        let deny = Policy { deny: nets(&["203.0.113.0/24"]), ..Policy::default() };
        assert!(!reach(&deny, &[], public));
        assert!(reach(&Policy { allow: nets(&["203.0.113.7/32"]), ..deny.clone() }, &[], public));
        assert!(reach(&Policy { allow_names: vec!["api.example.com".to_owned()], ..deny.clone() }, &[], public));
        assert!(!reach(&Policy { closed: true, ..open }, &[], public));
        let named_private = Policy { allow_names: vec!["*".to_owned()], ..deny };
        assert!(!reach(&named_private, &[], Ipv4Addr::new(10, 0, 0, 1)), "a name opens nothing private");
    }

    #[test]
    fn plain_requests_are_sent_to_https() {
        let of = |head: &str| secure_address(head);
        assert_eq!(of("GET /a?b HTTP/1.1\r\nHost: x.org\r\n\r\n").unwrap(), "https://x.org/a?b");
        assert_eq!(of("POST / HTTP/1.1\r\nAccept: *\r\nhost:x.org:80\r\n\r\n").unwrap(), "https://x.org/");
        for bad in
            ["", "GET", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / H\r\nHost: a b\r\n\r\n"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_plain_request_writes_headers_of_its_own(head in ".{0,400}") {
            if let Some(to) = secure_address(&head) {
                prop_assert!(to.starts_with("https://") && to.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
