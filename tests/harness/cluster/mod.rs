//! A real cluster on one machine: replicas of control on a PostgreSQL, and host agents with real sandboxes, each in a
//! network namespace of its own with its own address, data directory and cgroups. Links can be cut, made lossy and
//! healed, processes stopped, continued, killed and started again. All intervals are short.

mod events;
mod net;
mod node;
mod postgres;
mod proxy;
mod thief;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use atoll_client::{Auth, Client, Endpoint, command};
use atoll_model::api::hosts::{CreateHostRequest, Host};
use atoll_model::api::sandboxes::{CreateSandboxRequest, Sandbox};
use atoll_model::{HostId, HostStatus, SandboxId, SandboxStatus};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

pub use events::EventStream;
pub use net::Net;
pub use node::Node;
pub use postgres::Postgres;
pub use proxy::{Manners, Proxy};
pub use thief::Thief;

use crate::balancer::Balancer;
use crate::wait::until;

/// How hosts are watched in a cluster.
pub const STALE_AFTER: Duration = Duration::from_millis(2500);
pub const MONITOR_INTERVAL: Duration = Duration::from_millis(500);
const CONTROL: [&str; 12] = [
    "server",
    "--heartbeat-interval",
    "400ms",
    "--host-stale-after",
    "2500ms",
    "--monitor-interval",
    "500ms",
    "--transition-limit",
    "3s",
    "--signup",
    "closed",
    "--json",
];
const AGENT: [&str; 5] = ["host", "--disconnect-after", "2500ms", "--log", "info,atoll_host::sandboxes::durable=debug"];
/// Unless a test wants others.
const AGENT_ENV: [(&str, &str); 2] = [("ATOLL_POOL_SIZE", "8G"), ("ATOLL_MAX_SANDBOXES", "64")];
/// A disk of a machine's own.
const DISK: &str = "12G";
const PORT: u16 = 7420;
const AGENT_PORT: u16 = 7421;
const EMAIL: &str = "admin@cluster.test";

/// A host: its agent and its id at control.
pub struct Machine {
    pub node: Node,
    pub id: HostId,
}

/// Everything ends with this value, also when the test has failed.
pub struct Cluster {
    pub controls: Vec<Node>,
    pub hosts: Vec<Machine>,
    /// In the first admin's name.
    pub admin: Client,
    /// With an API key.
    pub client: Client,
    pub key: SecretString,
    token: SecretString,
    pub postgres: Postgres,
    pub net: Net,
    dir: tempfile::TempDir,
}

/// What control keeps its rows in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Postgres,
    /// Of the one replica.
    Sqlite,
}

/// How a host is reached by control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Address,
    Tunnel,
}

impl Cluster {
    /// So many replicas and hosts, all online.
    pub async fn start(replicas: u8, hosts: u8) -> Self {
        Self::start_with(replicas, hosts, &[]).await
    }

    /// The same, with further environment for control. `{gateway}` in it is this process's address for the machines.
    pub async fn start_with(replicas: u8, hosts: u8, env: &[(&str, &str)]) -> Self {
        Self::start_on(Database::Postgres, replicas, hosts, env).await
    }

    /// The same over this database.
    pub async fn start_on(database: Database, replicas: u8, hosts: u8, env: &[(&str, &str)]) -> Self {
        assert!(database == Database::Postgres || replicas == 1, "an embedded database is one server's own");
        let mut cluster = Self::without_hosts_on(database, replicas, env, false).await;
        for _ in 0..hosts {
            cluster.add_host(Reach::Address).await;
        }
        for host in 0..cluster.hosts.len() {
            cluster.wait_host(host, HostStatus::Online).await;
        }
        if hosts > 0 {
            cluster.wait_ready().await;
        }
        cluster
    }

    pub async fn without_hosts(replicas: u8) -> Self {
        Self::without_hosts_on(Database::Postgres, replicas, &[], false).await
    }

    /// One replica, with an embedded database, and so many hosts, all online: each on a disk of its own, so that any may lose
    /// its power. With further environment for the hosts.
    pub async fn start_on_disks(hosts: u8, env: &[(&str, &str)]) -> Self {
        let mut cluster = Self::without_hosts_on(Database::Sqlite, 1, &[], true).await;
        for _ in 0..hosts {
            cluster.add_host_on_small_disk_with(env).await;
        }
        cluster.wait_ready().await;
        cluster
    }

    async fn without_hosts_on(database: Database, replicas: u8, env: &[(&str, &str)], disks: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-cluster-").tempdir_in("/var/tmp").expect("a directory");
        let postgres = Postgres::start(dir.path());
        let mut net = Net::make();
        let mut controls = Vec::new();
        let gateway = net.address(254).to_string();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.replace("{gateway}", &gateway))).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for number in 1..=replicas {
            let (machine, address) = (net.add(number), net.address(number));
            let listen = format!("{address}:{PORT}");
            let mut args = CONTROL.to_vec();
            // Whoever may lose its power says what it has written out, and anybody can be asked for more.
            let log = "info,atoll_control::db::durable=debug";
            args.extend(["--listen", &listen, "--advertise", &listen, "--log", log]);
            let mut node = Node::new(machine, address, dir.path().join(format!("control{number}")), &args);
            node.set(&env);
            if disks {
                node.give_small_disk(DISK);
            }
            if database == Database::Postgres {
                node.set(&[("ATOLL_DATABASE_URL", &postgres.url())]);
            }
            node.run(&[]);
            node.says("the control plane is up").await;
            controls.push(node);
        }
        let nobody = client(controls[0].address, Auth::Nobody);
        let password: SecretString = "correct horse battery staple".to_owned().into();
        // Each server that starts before anybody has an account makes a token; the last one counts.
        let token = controls.last().and_then(setup_token).expect("a setup token in the log");
        let made = nobody.setup(&token, EMAIL, &password).await.expect("making the first admin");
        let token = SecretString::from(made.token.expect("a token in the answer"));
        let admin = nobody.with_auth(Auth::Bearer(token.clone()));
        let key = admin.create_api_key("cluster").await.expect("an API key").key.expect("shown once");
        let key = SecretString::from(key);
        let client = nobody.with_auth(Auth::ApiKey(key.clone()));
        Self { controls, hosts: Vec::new(), admin, client, key, token, postgres, net, dir }
    }

    /// Makes a host, starts its agent and lets it enrol. Answers with its number.
    pub async fn add_host(&mut self, reach: Reach) -> usize {
        self.add_host_with(reach, &[]).await
    }

    /// The same, with further environment for the agent.
    pub async fn add_host_with(&mut self, reach: Reach, env: &[(&str, &str)]) -> usize {
        let made = self.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
        let number = self.new_agent(reach, made.host.id.clone());
        let token = made.registration_token;
        self.hosts[number].node.set(env);
        self.hosts[number].node.run(&[("ATOLL_REGISTER", &token)]);
        number
    }

    /// A host whose data directory is a small file system of its own.
    pub async fn add_host_on_small_disk(&mut self) -> usize {
        self.add_host_on_small_disk_with(&[]).await
    }

    /// The same, with further environment for the agent.
    pub async fn add_host_on_small_disk_with(&mut self, env: &[(&str, &str)]) -> usize {
        let made = self.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
        let number = self.new_agent(Reach::Address, made.host.id.clone());
        let node = &mut self.hosts[number].node;
        node.give_small_disk(DISK);
        node.set(env);
        node.run(&[("ATOLL_REGISTER", &made.registration_token)]);
        self.wait_host(number, HostStatus::Online).await;
        number
    }

    /// A host that reaches control through this proxy, online.
    pub async fn add_host_behind(&mut self, proxy: &Proxy) -> usize {
        let number = self.start_host_behind(proxy).await;
        self.wait_host(number, HostStatus::Online).await;
        number
    }

    /// The same, whatever comes of it.
    pub async fn start_host_behind(&mut self, proxy: &Proxy) -> usize {
        let made = self.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
        let number = self.new_agent_of(&proxy.url, Reach::Address, made.host.id.clone());
        let (roots, token) = (proxy.roots.display().to_string(), made.registration_token);
        self.hosts[number].node.run(&[("SSL_CERT_FILE", &roots), ("ATOLL_REGISTER", &token)]);
        number
    }

    /// A proxy in front of the first replica.
    pub async fn proxy(&self) -> Proxy {
        Proxy::start(self.dir.path(), self.net.address(254), self.control_address(0)).await
    }

    pub fn control_address(&self, replica: usize) -> SocketAddr {
        (self.controls[replica].address, PORT).into()
    }

    /// An agent's machine, for the host `id`; not started.
    pub fn new_agent(&mut self, reach: Reach, id: HostId) -> usize {
        let replica = self.hosts.len() % self.controls.len();
        let server = format!("http://{}", self.control_address(replica));
        self.new_agent_of(&server, reach, id)
    }

    fn new_agent_of(&mut self, server: &str, reach: Reach, id: HostId) -> usize {
        let number = self.hosts.len();
        let last = 11 + u8::try_from(number).expect("few hosts");
        let (machine, address) = (self.net.add(last), self.net.address(last));
        let (listen, own) = (format!("0.0.0.0:{AGENT_PORT}"), format!("{address}:{AGENT_PORT}"));
        let mut args = AGENT.to_vec();
        args.extend(["--server", server, "--listen", &listen]);
        match reach {
            Reach::Address => args.extend(["--address", &own]),
            Reach::Tunnel => args.push("--tunnel"),
        }
        let mut node = Node::new(machine, address, self.dir.path().join(format!("host{number}")), &args);
        node.set(&AGENT_ENV);
        self.hosts.push(Machine { node, id });
        number
    }

    pub async fn wait_ready(&self) {
        until("the cluster to be ready", || async { self.client.ready().await.ok() }).await;
    }

    /// A client of one replica, with the API key.
    pub fn client_of(&self, replica: usize) -> Client {
        client(self.controls[replica].address, Auth::ApiKey(self.key.clone()))
    }

    /// A client of one replica, in the first admin's name.
    pub fn admin_of(&self, replica: usize) -> Client {
        client(self.controls[replica].address, Auth::Bearer(self.token.clone()))
    }

    /// One request over plain HTTP/1.1 to a replica, with these header lines; the whole answer as text.
    pub async fn raw(&self, replica: usize, head: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let exchange = async {
            let mut stream = tokio::net::TcpStream::connect((self.controls[replica].address, PORT)).await?;
            let head = head.lines().map(str::trim).collect::<Vec<_>>().join("\r\n");
            stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        exchange.await.unwrap_or_else(|error| format!("no answer: {error}"))
    }

    /// A load balancer before all replicas.
    pub fn balancer(&self) -> Balancer {
        let replicas: Vec<_> = self.controls.iter().map(|node| format!("{}:{PORT}", node.address)).collect();
        Balancer::start(self.dir.path(), &replicas)
    }

    /// A client of the server at `url`, with the API key.
    pub fn client_at(&self, url: &str) -> Client {
        at(url, Auth::ApiKey(self.key.clone()))
    }

    /// A client of the server at `url`, in the first admin's name.
    pub fn admin_at(&self, url: &str) -> Client {
        at(url, Auth::Bearer(self.token.clone()))
    }

    /// A client of the server at `url` without credentials.
    pub fn nobody_at(&self, url: &str) -> Client {
        at(url, Auth::Nobody)
    }

    /// The address of one replica.
    pub fn url_of(&self, replica: usize) -> String {
        format!("http://{}:{PORT}", self.controls[replica].address)
    }

    /// One replica's stream of the events that the API key may see, when it has begun.
    pub async fn open_events(&self, replica: usize) -> EventStream {
        let key = self.key.expose_secret();
        EventStream::open((self.controls[replica].address, PORT).into(), key).await
    }

    /// The same stream after this event.
    pub async fn go_on_with_events(&self, replica: usize, after: i64) -> EventStream {
        let key = self.key.expose_secret();
        EventStream::go_on((self.controls[replica].address, PORT).into(), key, after).await
    }

    /// Addresses of all replicas: what a host is cut off from.
    pub fn control_addresses(&self) -> Vec<Ipv4Addr> {
        self.controls.iter().map(|node| node.address).collect()
    }

    /// What a host says is lost on its way; what control says still arrives.
    pub fn mute(&self, host: usize) {
        self.net.mute(&self.hosts[host].node.machine, &self.control_addresses());
    }

    /// Many packets between a host and control are lost.
    pub fn lossy(&self, host: usize, percent: u8) {
        self.net.lossy(&self.hosts[host].node.machine, &self.control_addresses(), percent);
    }

    /// Cuts a host off from all of control.
    pub fn cut(&self, host: usize) {
        self.net.cut(&self.hosts[host].node.machine, &self.control_addresses());
    }

    pub fn heal(&self, host: usize) {
        self.net.heal(&self.hosts[host].node.machine);
    }

    pub async fn host(&self, host: usize) -> Host {
        self.admin.get_host(&self.hosts[host].id).await.expect("the host")
    }

    pub async fn wait_host(&self, host: usize, status: HostStatus) {
        let id = &self.hosts[host].id;
        until(&format!("host {host} to be {status:?}"), || async {
            self.admin.get_host(id).await.ok().filter(|host| host.status == status).map(drop)
        })
        .await;
    }

    /// A small sandbox on that host.
    pub async fn sandbox_on(&self, host: usize) -> SandboxId {
        let id = &self.hosts[host].id;
        let others: Vec<&HostId> = self.hosts.iter().map(|host| &host.id).filter(|other| *other != id).collect();
        for other in &others {
            self.admin.drain_host(other, true).await.expect("draining");
        }
        let made = until("a sandbox on the host", || async {
            let made = self.client.create_sandbox(&tiny()).await;
            // Shown when the test fails.
            let made = made.inspect_err(|error| println!("no sandbox yet: {error}")).ok()?;
            if made.host_id.as_ref() == Some(id) {
                return Some(made.id);
            }
            self.client.destroy_sandbox(&made.id).await.expect("destroying");
            None
        })
        .await;
        for other in others {
            self.admin.drain_host(other, false).await.expect("undraining");
        }
        made
    }

    pub async fn sandbox(&self, id: &SandboxId) -> Sandbox {
        self.client.get_sandbox(id).await.expect("the sandbox")
    }

    pub async fn wait_sandbox(&self, id: &SandboxId, status: SandboxStatus) -> Sandbox {
        until(&format!("{id} to be {status}"), || async {
            self.client.get_sandbox(id).await.ok().filter(|sandbox| sandbox.status == status)
        })
        .await
    }

    /// Starts a process that runs for ever, and answers with what tells it from any other.
    pub async fn long_process(&self, id: &SandboxId) -> (u32, String) {
        let start = command("/bin/sleep", ["100000"]);
        let pid = self.client.exec_background(id, &start).await.expect("a process").pid;
        (pid, self.start_time(id, pid).await)
    }

    /// When a process of a sandbox was started, in the kernel's own count; empty when there is none.
    pub async fn start_time(&self, id: &SandboxId, pid: u32) -> String {
        self.sh(id, &format!("cut -d' ' -f22 /proc/{pid}/stat")).await
    }

    /// What a shell script writes.
    pub async fn sh(&self, id: &SandboxId, script: &str) -> String {
        let answer = self.client.exec(id, &command("/bin/bash", ["-c", script])).await;
        answer.unwrap_or_else(|error| panic!("running {script:?} in {id}: {error}")).stdout
    }
}

/// As little as a sandbox can be.
pub fn tiny() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(64), disk_mb: Some(64), ..CreateSandboxRequest::default() }
}

/// A POST of JSON over plain HTTP/1.1, with these further headers; status and body of the answer.
pub async fn post(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{headers}\r\n{body}"
    );
    let mut stream = tokio::net::TcpStream::connect(to).await.expect("connecting to control");
    stream.write_all(request.as_bytes()).await.expect("sending a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reading an answer");
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

fn client(address: Ipv4Addr, auth: Auth) -> Client {
    at(&format!("http://{address}:{PORT}"), auth)
}

fn at(url: &str, auth: Auth) -> Client {
    Client::to(Endpoint::parse(url).expect("an address"), auth).expect("a client")
}

/// Said in the first line that a server prints.
fn setup_token(node: &Node) -> Option<SecretString> {
    let log = node.log();
    let line = log.lines().find(|line| line.contains("\"setup_token\""))?;
    let value: Value = serde_json::from_str(line).ok()?;
    value["setup_token"].as_str().map(|token| token.to_owned().into())
}
