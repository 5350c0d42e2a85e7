//! A reverse proxy between an agent and control, as companies put one in front: it ends TLS with a certificate of its own
//! and passes requests on. And it misbehaves as such proxies do: answers in control's place, is slow, loses answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Honest,
    /// Each request waits so long before it is passed on.
    Slow(Duration),
    /// Answers everything itself: status and body.
    Says(u16, &'static str),
    /// Requests whose path has this in it are passed on, and their answers are lost.
    LosesAnswersOf(&'static str),
    /// Answers come with so many bytes a second, all together.
    Narrow(usize),
}

pub struct Proxy {
    pub url: String,
    /// What an agent must trust to accept its certificate: a PEM file.
    pub roots: PathBuf,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    control: SocketAddr,
    manners: Mutex<Manners>,
    lost: AtomicUsize,
    asked: AtomicUsize,
    passed: AtomicUsize,
    /// When the narrow link is free again.
    free: tokio::sync::Mutex<tokio::time::Instant>,
}

impl Proxy {
    pub async fn start(dir: &Path, address: Ipv4Addr, control: SocketAddr) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![address.to_string()]).expect("a certificate");
        let roots = dir.join("proxy.pem");
        std::fs::write(&roots, made.cert.pem()).expect("writing the proxy's certificate");
        let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((address, 0)).await.expect("listening");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let manners = Mutex::new(Manners::Honest);
        let free = tokio::sync::Mutex::new(tokio::time::Instant::now());
        let (lost, asked, passed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { control, manners, lost, asked, passed, free });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    // Of an agent that goes away, or asks for control's own name first.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = serve(&shared, stream).await;
                    }
                });
            }
        });
        Self { url, roots, shared, task }
    }

    pub fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap_or_else(PoisonError::into_inner) = manners;
    }

    /// Answers that were lost so far.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Bytes of answers that were passed on so far.
    pub fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Requests that came so far.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request of a connection, and its end.
async fn serve(shared: &Shared, stream: TlsStream<TcpStream>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length, mut line) = (String::new(), 0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "\r\n" => break,
            "connection" => continue,
            "content-length" => length = line[name.len() + 1..].trim().parse().unwrap_or(0),
            _ => {}
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let manners = *shared.manners.lock().unwrap_or_else(PoisonError::into_inner);
    match manners {
        Manners::Says(status, body) => {
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
            return stream.shutdown().await;
        }
        Manners::Slow(by) => tokio::time::sleep(by).await,
        Manners::Honest | Manners::LosesAnswersOf(_) | Manners::Narrow(_) => {}
    }
    let mut control = BufReader::new(TcpStream::connect(shared.control).await?);
    control.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
    control.write_all(&body).await?;
    control.flush().await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    if matches!(manners, Manners::LosesAnswersOf(part) if path.contains(part)) {
        let mut answer = Vec::new();
        control.read_to_end(&mut answer).await?;
        shared.lost.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = control.read(&mut piece).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        shared.wait_for(read).await;
        stream.write_all(&piece[..read]).await?;
        stream.flush().await?;
        shared.passed.fetch_add(read, Ordering::SeqCst);
    }
}

impl Shared {
    /// Until the link has room for so many bytes.
    async fn wait_for(&self, bytes: usize) {
        let Manners::Narrow(rate) = *self.manners.lock().unwrap_or_else(PoisonError::into_inner) else { return };
        let mut free = self.free.lock().await;
        *free = (*free).max(tokio::time::Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        tokio::time::sleep_until(*free).await;
    }
}
