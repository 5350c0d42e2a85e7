//! A SOCKS5 proxy of a sandbox's own (RFC 1928, its logins RFC 1929): found, judged, and asked for a connection.
//!
//! It is asked for addresses, as the sandbox has resolved them. Its own address is none that sandboxes are kept from: a
//! proxy is no way to what is private, or this host's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Client, Shared, is_open, is_own};
use crate::agent::trust;
use crate::network::policy::{OwnProxy, ProxyTls};

/// To reach the proxy, and as much again for what it does.
const CONNECT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(30);
/// A connection that says nothing for so long is asked whether its other side lives.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// Of one answer.
const MAX_ADDRESSES: usize = 16;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const CONNECT_COMMAND: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why there is no connection through a proxy. What the log and, of requests that get headers, the sandbox is told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("its name has no IPv4 address")]
    NoAddress,
    #[error("its address {0} is none that a sandbox may reach")]
    Closed(Ipv4Addr),
    #[error("it can't be reached: {0}")]
    Connect(io::Error),
    #[error("TLS with it: {0}")]
    Tls(io::Error),
    #[error("it does not answer as a SOCKS5 proxy does: {0}")]
    Talk(io::Error),
    #[error("it wants another login")]
    Login,
    #[error("it refuses the connection: {0}")]
    Refused(&'static str),
}

/// One way or the other, a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub type Leg = Box<dyn Stream>;

/// A connection to `to` through the proxy.
pub async fn connect(shared: &Shared, client: &Client, proxy: &OwnProxy, to: SocketAddrV4) -> Result<Leg, Failure> {
    let addresses = match proxy.host.parse() {
        Ok(address) => vec![address],
        Err(_) => shared.resolver.resolve(&proxy.host, MAX_ADDRESSES).await,
    };
    let mut failure = Failure::NoAddress;
    for address in addresses {
        match reach(shared, address, proxy.port).await {
            Ok(stream) => return ask(stream, shared, client, proxy, to).await,
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn reach(shared: &Shared, address: Ipv4Addr, port: u16) -> Result<TcpStream, Failure> {
    if !is_open(&shared.allowed, address) || is_own(address) {
        return Err(Failure::Closed(address));
    }
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(CONNECT, TcpStream::connect(SocketAddr::from((address, port)))).await.map_err(late);
    let stream = stream.and_then(|result| result).map_err(Failure::Connect)?;
    let set = stream.set_nodelay(true).and_then(|()| {
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
        Ok(sockopt::set_socket_keepalive(&stream, true)?)
    });
    set.map_err(Failure::Connect)?;
    Ok(stream)
}

async fn ask(
    stream: TcpStream,
    shared: &Shared,
    client: &Client,
    proxy: &OwnProxy,
    to: SocketAddrV4,
) -> Result<Leg, Failure> {
    let asking = async {
        let mut leg: Leg = match &proxy.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(secure(stream, shared, client, proxy, tls).await.map_err(Failure::Tls)?),
        };
        talk(&mut leg, proxy.login.as_ref(), to).await?;
        Ok(leg)
    };
    let late = |_| Failure::Talk(io::Error::from(io::ErrorKind::TimedOut));
    timeout(HANDSHAKE, asking).await.map_err(late)?
}

async fn secure(
    stream: TcpStream,
    shared: &Shared,
    client: &Client,
    proxy: &OwnProxy,
    tls: &ProxyTls,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = tls.server_name.clone().unwrap_or_else(|| proxy.host.clone());
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let config = match client.proxy_tls.get() {
        Some(config) => config.clone(),
        None => {
            let config = judge(shared, tls)?;
            client.proxy_tls.get_or_init(|| config).clone()
        }
    };
    TlsConnector::from(config).connect(name, stream).await
}

/// Who may vouch for the proxy.
fn judge(shared: &Shared, tls: &ProxyTls) -> io::Result<Arc<ClientConfig>> {
    let Some(pem) = &tls.ca else {
        let mut config = ClientConfig::clone(&shared.tls());
        config.alpn_protocols = Vec::new();
        return Ok(Arc::new(config));
    };
    let mut roots = RootCertStore::empty();
    for certificate in trust::certificates(pem).map_err(io::Error::other)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(trust::provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// From the greeting to where the connection is the other side's.
async fn talk(
    leg: &mut (impl Stream + ?Sized),
    login: Option<&(String, String)>,
    to: SocketAddrV4,
) -> Result<(), Failure> {
    let greeting: &[u8] = if login.is_some() { &[VERSION, 2, NO_LOGIN, LOGIN] } else { &[VERSION, 1, NO_LOGIN] };
    leg.write_all(greeting).await.map_err(Failure::Talk)?;
    match (said::<2>(leg).await?, login) {
        ([VERSION, NO_LOGIN], _) => {}
        ([VERSION, LOGIN], Some((user, password))) => {
            let part = |text: &str| {
                let length = u8::try_from(text.len()).map_err(|_| Failure::Login)?;
                Ok::<_, Failure>([&[length][..], text.as_bytes()].concat())
            };
            let login = [vec![LOGIN_VERSION], part(user)?, part(password)?].concat();
            leg.write_all(&login).await.map_err(Failure::Talk)?;
            if !matches!(said::<2>(leg).await?, [LOGIN_VERSION, 0]) {
                return Err(Failure::Login);
            }
        }
        ([VERSION, _], _) => return Err(Failure::Login),
        _ => return Err(Failure::Talk(io::Error::other("another version"))),
    }
    let mut request = vec![VERSION, CONNECT_COMMAND, 0, IPV4];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    leg.write_all(&request).await.map_err(Failure::Talk)?;
    let [version, reply, _, kind] = said::<4>(leg).await?;
    if version != VERSION {
        return Err(Failure::Talk(io::Error::other("another version")));
    }
    if reply != 0 {
        return Err(Failure::Refused(why(reply)));
    }
    // From where it connects is of no use here.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(said::<1>(leg).await?[0]),
        _ => return Err(Failure::Talk(io::Error::other("an address of no known kind"))),
    };
    let mut bound = vec![0; length + 2];
    leg.read_exact(&mut bound).await.map_err(Failure::Talk)?;
    Ok(())
}

/// So many bytes, and not one of what follows them.
async fn said<const BYTES: usize>(leg: &mut (impl Stream + ?Sized)) -> Result<[u8; BYTES], Failure> {
    let mut bytes = [0; BYTES];
    leg.read_exact(&mut bytes).await.map_err(Failure::Talk)?;
    Ok(bytes)
}

const fn why(reply: u8) -> &'static str {
    match reply {
        1 => "it has failed",
        2 => "its rules don't allow it",
        3 => "the network can't be reached",
        4 => "the host can't be reached",
        5 => "nobody listens there",
        6 => "it took too long",
        7 => "it makes no connections",
        8 => "it knows no such addresses",
        _ => "for a reason of its own",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 443);

    /// What comes of a proxy that says this, and what it is sent.
    async fn with(answers: &[u8], login: Option<(String, String)>) -> (Result<(), Failure>, Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(answers).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = talk(&mut ours, login.as_ref(), TO).await;
        let mut left = Vec::new();
        ours.read_to_end(&mut left).await.unwrap();
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (result, sent, left)
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_the_address_and_what_follows_is_the_connections() {
        let (result, sent, left) = with(b"\x05\x00\x05\x00\x00\x03\x01xPPhello", None).await;
        result.unwrap();
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x01\xcb\x00\x71\x07\x01\xbb");
        assert_eq!(left, b"hello");
        let login = Some(("ann".to_owned(), "pass".to_owned()));
        let (result, sent, _) = with(b"\x05\x02\x01\x00\x05\x00\x00\x01aaaaPP", login).await;
        result.unwrap();
        assert!(sent.starts_with(b"\x05\x02\x00\x02\x01\x03ann\x04pass\x05\x01\x00\x01"), "{sent:?}");
    }

    #[tokio::test]
    async fn what_goes_wrong_has_a_name() {
        let login = || Some(("ann".to_owned(), "pass".to_owned()));
        assert!(matches!(with(b"\x05\x02", None).await.0, Err(Failure::Login)), "a login that was not offered");
        assert!(matches!(with(b"\x05\xff", login()).await.0, Err(Failure::Login)));
        assert!(matches!(with(b"\x05\x02\x01\x01", login()).await.0, Err(Failure::Login)));
        let long = Some(("a".repeat(256), String::new()));
        assert!(matches!(with(b"\x05\x02\x01\x00", long).await.0, Err(Failure::Login)));
        let refused = with(b"\x05\x00\x05\x02\x00\x01", None).await.0.unwrap_err();
        assert_eq!(refused.to_string(), "it refuses the connection: its rules don't allow it");
        assert!(matches!(with(b"HTTP/1.1 400", None).await.0, Err(Failure::Talk(_))));
        assert!(matches!(with(b"", None).await.0, Err(Failure::Talk(_))));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_hang(answers in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let login = Some(("a".to_owned(), "b".to_owned()));
            let (result, sent, _) = runtime.block_on(with(&answers, login));
            prop_assert!(sent.starts_with(&[5, 2]) && (result.is_err() || sent.ends_with(&[1, 0xbb])));
        }
    }
}
