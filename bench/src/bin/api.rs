//! What the API of one `atoll server` of its own takes: sign-ins, an authenticated list, the audit trail page by page.
//! The load comes from one thread of this machine, over plain HTTP connections that are kept.
//!
//!     api --program target/release/atoll
//!     api --program target/release/atoll --database-url postgres://...

#[path = "../connection.rs"]
mod connection;
#[path = "../stats.rs"]
mod stats;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use connection::{Connection, request};
use stats::Samples;

const PASSWORD: &str = "correct horse battery staple";
const JSON: &str = "Content-Type: application/json\r\n";
/// So many people sign in at once: more than the machine has processors.
const PEOPLE: usize = 8;
const PAGE: usize = 1000;
/// Connections that make the entries of the audit trail.
const WRITERS: usize = 32;

#[derive(Parser)]
struct Args {
    /// The binary under test
    #[arg(long)]
    program: PathBuf,
    /// postgres://… [default: SQLite in a temporary directory]
    #[arg(long)]
    database_url: Option<String>,
    /// Connections that ask at the same time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// For how long each is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Entries of the audit trail that are listed
    #[arg(long, default_value_t = 100_000)]
    audit_rows: usize,
    /// Asks with an API key instead of a session's token
    #[arg(long)]
    key: bool,
}

struct Server {
    child: Child,
    address: String,
    /// Of the first admin.
    bearer: String,
}

impl Server {
    async fn start(args: &Args, dir: &std::path::Path) -> Result<Self> {
        let mut command = Command::new(&args.program);
        command.args(["--json", "server", "--listen", "127.0.0.1:0", "--monitor-interval", "1h", "--log", "warn"]);
        command.arg("--data-dir").arg(dir.join("data")).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        if let Some(url) = &args.database_url {
            command.env("ATOLL_DATABASE_URL", url);
        }
        let mut child = command.spawn().with_context(|| format!("starting {}", args.program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("its stdout")?).lines();
        let line = lines.next_line().await?.context("the server said nothing")?;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("the server said {line}"))?;
        let text = |name: &str| said[name].as_str().with_context(|| format!("no `{name}` in {line}"));
        let address = text("url")?.trim_start_matches("http://").to_owned();
        let setup = json!({ "token": text("setup_token")?, "email": "admin@bench.test", "password": PASSWORD });
        let mut connection = Connection::open(&address).await?;
        let made = connection.json(&request("POST", &address, "/v1/auth/setup", JSON, &setup.to_string())).await?;
        let bearer = format!("Authorization: Bearer {}\r\n", made["token"].as_str().context("no token")?);
        Ok(Self { child, address, bearer })
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        request(method, &self.address, path, &format!("{}{JSON}", self.bearer), body)
    }

    async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address).await
    }

    /// Processor time that the server has used.
    fn processor_time(&self) -> Result<Duration> {
        let pid = self.child.id().context("the server has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("its stat")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::Builder::new().prefix("atoll-bench-").tempdir_in("/var/tmp")?;
    let mut server = Server::start(&args, dir.path()).await?;
    let database = if args.database_url.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("| {database} | |\n| --- | --- |");
    teams(&args, &server).await.context("GET /v1/teams")?;
    logins(&args, &server).await.context("signing in")?;
    audit(&args, &server).await.context("the audit trail")?;
    server.child.start_kill()?;
    server.child.wait().await?;
    Ok(())
}

/// The same request over and over on all connections. Answers the times, and how long it took in all.
async fn load(
    server: &Server,
    connections: usize,
    requests: Vec<Vec<u8>>,
    time: Duration,
) -> Result<(Samples, Duration)> {
    let (begin, end) = (Instant::now(), Instant::now() + time);
    let mut workers = Vec::new();
    for number in 0..connections {
        let (mut connection, bytes) = (server.connect().await?, requests[number % requests.len()].clone());
        workers.push(async move {
            let mut took = Vec::with_capacity(1 << 16);
            while Instant::now() < end {
                let sent = Instant::now();
                let answer = connection.send(&bytes).await?;
                if !(200..300).contains(&answer.status) {
                    bail!("an answer {}: {}", answer.status, String::from_utf8_lossy(answer.body));
                }
                took.push(sent.elapsed());
            }
            Ok(took)
        });
    }
    let mut samples = Samples::default();
    for took in futures::future::try_join_all(workers).await? {
        took.into_iter().for_each(|time| samples.push(time));
    }
    Ok((samples, begin.elapsed()))
}

async fn teams(args: &Args, server: &Server) -> Result<()> {
    let (who, asking) = if args.key {
        let made = server.request("POST", "/v1/api-keys", r#"{"name":"bench"}"#);
        let made = server.connect().await?.json(&made).await?;
        let key = format!("X-API-Key: {}\r\n", made["key"].as_str().context("no key")?);
        ("`GET /v1/sandboxes` by key", request("GET", &server.address, "/v1/sandboxes", &key, ""))
    } else {
        ("`GET /v1/teams` by session", server.request("GET", "/v1/teams", ""))
    };
    load(server, args.connections, vec![asking.clone()], Duration::from_secs(1)).await?;
    let (before, begin) = (server.processor_time()?, Instant::now());
    let (samples, took) = load(server, args.connections, vec![asking], Duration::from_secs(args.seconds)).await?;
    let busy = (server.processor_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    let own = own_time();
    println!(
        "| {who}, {} connections | {:.0}/s, {:.2} ms p50, {:.2} ms p99 (n = {}); the server used {:.2} processors, {:.0} µs \
         of them per request; the load {own:.2} s |",
        args.connections,
        samples.len() as f64 / took.as_secs_f64(),
        samples.median(),
        samples.p99(),
        samples.len(),
        busy,
        busy * took.as_secs_f64() * 1e6 / samples.len() as f64,
    );
    Ok(())
}

/// Processor time of this process so far, in seconds.
fn own_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map(|rest| rest.1.split_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bounded by argon2: a hash of one password takes one processor for its whole time, and that is its purpose.
async fn logins(args: &Args, server: &Server) -> Result<()> {
    let mut connection = server.connect().await?;
    let mut signing_in = Vec::new();
    for number in 0..PEOPLE {
        let email = format!("person{number}@bench.test");
        let person = json!({ "email": email, "name": "Person" });
        let made = connection.json(&server.request("POST", "/v1/admin/users", &person.to_string())).await?;
        let link = made["url"].as_str().context("no link")?;
        let token = link.split_once('#').context("no token in the link")?.1;
        let confirm = json!({ "token": token, "password": PASSWORD }).to_string();
        connection.json(&server.request("POST", "/v1/auth/password/reset/confirm", &confirm)).await?;
        let login = json!({ "email": email, "password": PASSWORD }).to_string();
        signing_in.push(request("POST", &server.address, "/v1/auth/login", JSON, &login));
    }
    let mut alone = Samples::default();
    for login in signing_in.iter().cycle().take(24) {
        let sent = Instant::now();
        connection.json(login).await?;
        alone.push(sent.elapsed());
    }
    let (before, begin) = (server.processor_time()?, Instant::now());
    let (samples, took) = load(server, PEOPLE, signing_in, Duration::from_secs(args.seconds.min(5))).await?;
    let busy = (server.processor_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    println!(
        "| sign-in by password (bound by argon2id, on purpose) | one at a time {:.1} ms p50; {PEOPLE} at once {:.0}/s, {:.0} \
         ms p50, {:.0} ms p99, with {busy:.2} processors busy |",
        alone.median(),
        samples.len() as f64 / took.as_secs_f64(),
        samples.median(),
        samples.p99(),
    );
    Ok(())
}

async fn audit(args: &Args, server: &Server) -> Result<()> {
    let have = count(&mut server.connect().await?, server, "limit=1").await?.0;
    ensure!(have == 1, "there is an entry at least");
    let begin = Instant::now();
    let names = [r#"{"name":"One"}"#, r#"{"name":"Two"}"#];
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let mut connection = server.connect().await?;
        let changes: Vec<_> = names.iter().map(|body| server.request("PATCH", "/v1/me", body)).collect();
        let share = args.audit_rows / WRITERS;
        writers.push(async move {
            for turn in 0..share {
                connection.json(&changes[(turn + number) % 2]).await?;
            }
            anyhow::Ok(())
        });
    }
    futures::future::try_join_all(writers).await?;
    let written = begin.elapsed();
    let mut connection = server.connect().await?;
    let (mut pages, mut rows, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let sent = Instant::now();
        let (page, next) = count(&mut connection, server, &format!("limit={PAGE}{cursor}")).await?;
        pages.push(sent.elapsed().as_secs_f64() * 1e3);
        rows += page;
        match next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let of = |pages: &[f64]| {
        let mut samples = Samples::default();
        pages.iter().for_each(|ms| samples.push_value(*ms));
        samples.median()
    };
    ensure!(rows >= args.audit_rows / WRITERS * WRITERS, "{rows} entries are listed of {} changes", args.audit_rows);
    let tenth = (pages.len() / 10).max(1);
    println!(
        "| {rows} audit entries listed in {} pages of {PAGE} | {:.1} ms per page at the beginning, {:.1} ms in the middle, \
         {:.1} ms at the end |",
        pages.len(),
        of(&pages[..tenth]),
        of(&pages[pages.len() / 2 - tenth / 2..][..tenth]),
        of(&pages[pages.len() - tenth..]),
    );
    println!("| audited changes, {WRITERS} at once | {:.0}/s |", args.audit_rows as f64 / written.as_secs_f64());
    Ok(())
}

/// How many entries a page has, and where the next one begins.
async fn count(connection: &mut Connection, server: &Server, query: &str) -> Result<(usize, Option<String>)> {
    let page = connection.json(&server.request("GET", &format!("/v1/admin/audit-logs?{query}"), "")).await?;
    let items = page["items"].as_array().context("no items")?.len();
    Ok((items, page["next_cursor"].as_str().map(str::to_owned)))
}
