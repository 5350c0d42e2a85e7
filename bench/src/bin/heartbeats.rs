//! How many heartbeats a second one replica of control takes, with many simulated hosts: an `atoll server` of its own,
//! hosts that enrol over the API as real ones do, then heartbeats as fast as they are answered, and as often as so many
//! hosts would send them. Connections are kept and speak plain HTTP, so TLS handshakes are not in the figures.
//!
//!     heartbeats --program target/release/atoll --hosts 2000
//!     heartbeats --program target/release/atoll --hosts 2000 --database-url postgres://...

#[path = "../rows.rs"]
mod rows;
#[allow(dead_code, reason = "the main program uses more of it")]
#[path = "../stats.rs"]
mod stats;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use stats::Samples;

#[derive(Parser)]
struct Args {
    /// The binary under test
    #[arg(long)]
    program: std::path::PathBuf,
    /// postgres://… [default: SQLite in a temporary directory]
    #[arg(long)]
    database_url: Option<String>,
    /// Simulated hosts
    #[arg(long, default_value_t = 2000)]
    hosts: usize,
    /// Heartbeats under way at the same time
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// For how long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Heartbeats a second in all, after as many as are answered [default: the goal]
    #[arg(long)]
    rate: Option<f64>,
    /// Adds Markdown rows to this file
    #[arg(long)]
    rows: Option<std::path::PathBuf>,
}

/// One kept-alive HTTP/1.1 connection.
struct Connection {
    address: String,
    stream: BufReader<TcpStream>,
}

impl Connection {
    async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { address: address.to_owned(), stream: BufReader::new(stream) })
    }

    async fn post(&mut self, path: &str, header: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{header}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                bail!("the server closed the connection");
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if let Some(rest) = text.strip_prefix("HTTP/1.1 ") {
                status = rest.split(' ').next().unwrap_or_default().parse()?;
            } else if let Some(value) = text.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((status, body))
    }

    async fn json(&mut self, path: &str, header: &str, body: &Value) -> Result<Value> {
        let (status, body) = self.post(path, header, &body.to_string()).await?;
        if !(200..300).contains(&status) {
            bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Hosts that enrol at once.
const ENROLLING: usize = 4;

struct Host {
    path: String,
    header: String,
    body: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::Builder::new().prefix("atoll-bench-").tempdir_in("/var/tmp")?;
    let (mut server, address, setup) = start(&args, dir.path()).await?;
    let hosts = enrol(&args, &address, &setup).await?;
    // The first heartbeat with new credentials costs more: it ends the former ones. Each waits for a write that it shares
    // with others, so many are under way.
    let firsts = (0..args.at_once).map(|first| {
        let (hosts, address) = (&hosts, &address);
        async move {
            let mut connection = Connection::open(address).await?;
            for host in hosts.iter().skip(first).step_by(args.at_once) {
                connection.post(&host.path, &host.header, &host.body).await?;
            }
            Ok::<_, anyhow::Error>(())
        }
    });
    futures::future::try_join_all(firsts).await?;
    let (kind, many) = if args.database_url.is_some() { ("PostgreSQL", 100_000) } else { ("SQLite", 10_000) };
    let rate = args.rate.unwrap_or(f64::from(many) / 30.0 * 1.02);
    println!("{} hosts enrolled; {} heartbeats at once for {} s", hosts.len(), args.at_once, args.seconds);
    let hosts = Arc::new(hosts);
    for offered in [None, Some(rate)] {
        let cpu = processor_time(&server)?;
        let took = beat(&args, offered, &address, Arc::clone(&hosts)).await?;
        let done = took.len() as f64 / args.seconds as f64;
        let cpu = (processor_time(&server)? - cpu) / args.seconds as f64;
        let (p50, p99) = (took.median(), took.p99());
        let (how, goal, met) = match offered {
            None => ("as many as are answered".to_owned(), "", None),
            Some(rate) => {
                let met = done >= f64::from(many) / 30.0 * 0.99 && p99 <= 50.0;
                (format!("{rate:.0}/s offered: {many} hosts every 30 s"), "all, p99 50 ms", Some(met))
            }
        };
        rows::row(
            args.rows.as_deref(),
            &format!("heartbeats of {} hosts at one replica, {kind}, {how}", hosts.len()),
            goal,
            &format!("{done:.0}/s, {p50:.1} ms p50, {p99:.1} ms p99; the replica took {cpu:.2} processors"),
            met,
        )?;
    }
    server.start_kill()?;
    server.wait().await?;
    Ok(())
}

/// Seconds of processor time that the server has used.
fn processor_time(server: &Child) -> Result<f64> {
    let pid = server.id().context("the server has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).context("reading its times");
    // In hundredths of a second, whatever the kernel counts in itself.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Starts the server; its address, and the token that makes the first admin.
async fn start(args: &Args, dir: &std::path::Path) -> Result<(Child, String, String)> {
    let mut command = Command::new(&args.program);
    command.args([
        "--json",
        "server",
        "--listen",
        "127.0.0.1:0",
        "--monitor-interval",
        "1h",
        "--host-stale-after",
        "1h",
    ]);
    command.arg("--data-dir").arg(dir.join("data")).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    if let Some(url) = &args.database_url {
        command.env("ATOLL_DATABASE_URL", url);
    }
    let mut child = command.spawn().with_context(|| format!("starting {}", args.program.display()))?;
    let mut lines = BufReader::new(child.stdout.take().context("its stdout")?).lines();
    let line = lines.next_line().await?.context("the server said nothing")?;
    let said: Value = serde_json::from_str(&line).with_context(|| format!("the server said {line}"))?;
    let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no `{name}` in {line}"));
    let address = text("url")?.trim_start_matches("http://").to_owned();
    Ok((child, address, text("setup_token")?))
}

/// As real hosts enrol, but for the agent behind it.
async fn enrol(args: &Args, address: &str, setup: &str) -> Result<Vec<Host>> {
    let mut connection = Connection::open(address).await?;
    let admin = json!({ "token": setup, "email": "admin@bench.test", "password": "correct horse battery staple" });
    let token = connection.json("/v1/auth/setup", "X-Bench: 1", &admin).await?;
    let token = token["token"].as_str().context("no user token")?.to_owned();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let specs = json!({ "arch": "x86_64", "cpu_cores": 8, "memory_mb": 32768, "disk_gb": 500,
        "drivers": ["container"], "agent_version": "bench" });
    let enrolling = (0..ENROLLING).map(|turn| {
        let (token, csr, specs) = (&token, &csr, &specs);
        let many = args.hosts / ENROLLING + usize::from(turn < args.hosts % ENROLLING);
        async move {
            let mut connection = Connection::open(address).await?;
            let mut hosts = Vec::with_capacity(many);
            for _ in 0..many {
                hosts.push(enrol_one(&mut connection, token, csr, specs).await?);
            }
            Ok::<_, anyhow::Error>(hosts)
        }
    });
    Ok(futures::future::try_join_all(enrolling).await?.into_iter().flatten().collect())
}

async fn enrol_one(connection: &mut Connection, token: &str, csr: &str, specs: &Value) -> Result<Host> {
    let made = connection.json("/v1/hosts", &format!("Authorization: Bearer {token}"), &json!({})).await?;
    let register = json!({ "token": made["registration_token"], "address": "127.0.0.1:1", "specs": specs, "csr": csr });
    let enrolled = connection.json("/v1/hosts/register", "X-Bench: 1", &register).await?;
    let id = enrolled["host_id"].as_str().context("no host id")?;
    let access = enrolled["access_token"].as_str().context("no access token")?;
    let capacity = json!({ "cpu_millis": 8000, "memory_mb": 32768, "disk_mb": 500_000 });
    let beat = json!({ "agent_version": "bench", "boot_id": "bench", "address": "127.0.0.1:1",
        "capacity": capacity, "used": capacity, "sandbox_counts": { "running": 10, "paused": 2, "other": 0 },
        "sandbox_digest": "0123456789abcdef", "inventory_complete": true, "ready": true,
        "cached_images": (0..5).map(|image| format!("{image:064x}")).collect::<Vec<_>>() });
    Ok(Host {
        path: format!("/v1/hosts/{id}/heartbeat"),
        header: format!("X-Host-Token: {access}"),
        body: beat.to_string(),
    })
}

/// All hosts in turn, by as many workers as may be under way.
async fn beat(args: &Args, rate: Option<f64>, address: &str, hosts: Arc<Vec<Host>>) -> Result<Samples> {
    let next = Arc::new(AtomicUsize::new(0));
    let (begin, end) = (Instant::now(), Instant::now() + Duration::from_secs(args.seconds));
    let pace = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let workers: Vec<_> = (0..args.at_once)
        .map(|_| {
            let (hosts, next, address) = (Arc::clone(&hosts), Arc::clone(&next), address.to_owned());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut took = Vec::new();
                while Instant::now() < end {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut sent = Instant::now();
                    if let Some(pace) = pace {
                        // Late counts from when it was due, not from when somebody was free to send it.
                        sent = begin + pace * u32::try_from(number).unwrap_or(u32::MAX);
                        tokio::time::sleep_until(sent.into()).await;
                    }
                    let host = &hosts[number % hosts.len()];
                    let (status, body) = connection.post(&host.path, &host.header, &host.body).await?;
                    if status != 204 {
                        bail!("a heartbeat was answered {status}: {}", String::from_utf8_lossy(&body));
                    }
                    took.push(sent.elapsed());
                }
                Ok(took)
            })
        })
        .collect();
    let mut samples = Samples::default();
    for worker in workers {
        for took in worker.await?? {
            samples.push(took);
        }
    }
    Ok(samples)
}
