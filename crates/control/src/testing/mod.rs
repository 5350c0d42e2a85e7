//! For tests: an app over a real database with hosts that are not there. [`FakeFleet`] stands in for the machines
//! (their sandboxes are entries in a map); everything above the connection is the real thing. On PostgreSQL there are two
//! replicas, each with what it remembers, and clients ask them in turn: what one was told must hold on the other at
//! once. Real machines and a real load balancer come in the workspace's `tests/`.

mod agent;
mod client;
mod mail;
mod people;
mod process;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::{HostId, TeamId};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use agent::{FakeAgent, Lie};
pub use client::{Answer, Client};
pub use mail::{FakeMailServer, secret_in};
pub use people::Person;

use crate::accounts::store::insert_team;
use crate::accounts::{AccountSettings, Accounts, FirstAdmin, UserTokens};
use crate::api_keys::{self, NewKey};
use crate::app::{App, Parts};
use crate::audit::{Actor, Origin};
use crate::builds::Builds;
use crate::clock::Clock;
use crate::config::ControlConfig;
use crate::db::testing::TestDb;
use crate::db::{Db, Millis};
use crate::fleet::{
    Demand, Dial, Fleet, FleetError, FleetSettings, HostDirectory, HostLocation, Http, NoHost, Objection, Tunnels, Wire,
};
use crate::hosts::{Hosts, Loopback};
use crate::http::metrics::HttpMetrics;
use crate::http::places::Places;
use crate::identities::Identities;
use crate::layers::Layers;
use crate::mail::Mailer;
use crate::objects::Objects;
use crate::oci::{Puller, Registries};
use crate::pki::{Authority, agent_client_config};
use crate::reconcile::Reconcile;
use crate::registry::Registry;
use crate::sandboxes::{Placer, SandboxError, Sandboxes, Sources};
use crate::secrets::Secrets;
use crate::secrets::cipher::Cipher;
use crate::snapshots::Snapshots;
use crate::templates::{BaseImage, store as templates};
use crate::volumes::Volumes;

/// Hosts that are not there: placed on in turn, "dialled" through memory.
#[derive(Clone, Default)]
pub struct FakeFleet(Arc<Mutex<Machines>>);

#[derive(Default)]
struct Machines {
    agents: HashMap<HostId, FakeAgent>,
    order: Vec<HostId>,
    failed: Vec<HostId>,
    db: Option<Db>,
    /// Those that have had a row. Locked while one is made: whoever comes second finds it there.
    rows: Arc<tokio::sync::Mutex<HashSet<HostId>>>,
}

impl FakeFleet {
    pub fn add_host(&self) -> (HostId, FakeAgent) {
        let (id, agent) = (HostId::new(), FakeAgent::default());
        let mut machines = self.0.lock().unwrap();
        machines.agents.insert(id.clone(), agent.clone());
        machines.order.push(id.clone());
        (id, agent)
    }

    pub fn agent(&self, host: &HostId) -> FakeAgent {
        self.0.lock().unwrap().agents[host].clone()
    }

    /// It is gone for good.
    pub fn remove_host(&self, host: &HostId) {
        let mut machines = self.0.lock().unwrap();
        machines.agents.remove(host);
        machines.order.retain(|other| other != host);
    }

    /// The host gets a row, as one that never registered, if it never had one.
    async fn needs_row(&self, host: &HostId) {
        let (db, rows) = self.rows();
        let mut rows = rows.lock().await;
        if !rows.contains(host) {
            insert_host(&db, host, "pending", START).await;
            rows.insert(host.clone());
        }
    }

    fn rows(&self) -> (Db, Arc<tokio::sync::Mutex<HashSet<HostId>>>) {
        let machines = self.0.lock().unwrap();
        (machines.db.clone().expect("an app"), machines.rows.clone())
    }

    /// Hosts that a create has failed on.
    pub fn failed_hosts(&self) -> Vec<HostId> {
        self.0.lock().unwrap().failed.clone()
    }
}

#[async_trait]
impl HostDirectory for FakeFleet {
    async fn locate(&self, host: &HostId) -> Result<HostLocation, FleetError> {
        let known = self.0.lock().unwrap().agents.contains_key(host);
        if !known {
            return Err(FleetError::Unknown { host: host.clone() });
        }
        Ok(HostLocation {
            address: "memory:0".to_owned(),
            tunnel: None,
            since: START,
            key_sha256: [0; 32],
            certificate: String::new(),
        })
    }
}

#[async_trait]
impl Dial for FakeFleet {
    async fn dial(&self, host: &HostId, _: &HostLocation, _: Http) -> io::Result<Box<dyn Wire>> {
        let agent = self.0.lock().unwrap().agents.get(host).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
        if agent.is_unreachable() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let service = TowerToHyperService::new(agent.router());
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(theirs), service).await;
        });
        Ok(Box::new(ours))
    }
}

#[async_trait]
impl Placer for FakeFleet {
    async fn place(&self, demand: &Demand) -> Result<HostId, SandboxError> {
        let (free, considered, others) = {
            let machines = self.0.lock().unwrap();
            let same_vms = |host: &&HostId| {
                demand.vm_version.is_none() || machines.agents[*host].vm_version() == demand.vm_version
            };
            let fits = |host: &&HostId| {
                !demand.tried.contains(host)
                    && [&demand.only, &demand.volumes_on].into_iter().flatten().all(|only| only == *host)
            };
            let others = machines.order.iter().filter(|host| !same_vms(host)).count();
            (machines.order.iter().filter(same_vms).find(fits).cloned(), machines.order.len(), others)
        };
        let failed = if others > 0 { vec![(Objection::OtherVmVersion, others)] } else { Vec::new() };
        let none = NoHost { considered, byoc: demand.team_is_byoc, failed, vm_version: demand.vm_version.clone() };
        let host = free.ok_or(SandboxError::NoHost(none))?;
        self.needs_row(&host).await;
        Ok(host)
    }

    async fn offered(&self, _: &TeamId, _: bool) -> Result<BTreeSet<String>, SandboxError> {
        let machines = self.0.lock().unwrap();
        let offers = |agent: &FakeAgent| if agent.vm_version().is_some() { "vm" } else { "container" };
        Ok(machines.agents.values().map(|agent| offers(agent).to_owned()).collect())
    }

    fn failed(&self, host: &HostId) {
        self.0.lock().unwrap().failed.push(host.clone());
    }
}

/// An app over `test`'s database, with a first admin and the template `base`.
pub struct TestApp {
    pub app: App,
    /// The other replica on the same database.
    other: Option<App>,
    pub fleet: FakeFleet,
    pub clock: Clock,
    pub admin: FirstAdmin,
    pub client: Client,
    _test: TestDb,
}

pub const START: Millis = Millis(1_800_000_000_000);

pub async fn app(test: TestDb) -> TestApp {
    app_with(test, |_| {}).await
}

pub async fn app_with(test: TestDb, settings: impl FnOnce(&mut ControlConfig)) -> TestApp {
    let (db, clock, fleet) = (test.db.clone(), Clock::manual(START), FakeFleet::default());
    let dir = test.dir.path().to_owned();
    let mut config = ControlConfig::new(dir.clone(), dir, ([127, 0, 0, 1], 0).into());
    config.http.queue_timeout = Duration::from_secs(5);
    settings(&mut config);
    fleet.0.lock().unwrap().db = Some(db.clone());
    let app = wire(config.clone(), clock.clone(), db.clone(), &fleet).await;
    let other = match db {
        Db::Postgres(_) => Some(wire(config, clock.clone(), db, &fleet).await),
        Db::Sqlite { .. } => None,
    };
    let admin = app.accounts.first_admin("admin@example.test", None).await.unwrap().expect("nobody was there before");
    let base = BaseImage { name: "base".to_owned(), digest: "0".repeat(64), size_bytes: 1, path: "/nowhere".into() };
    templates::register_base(&app.db, &base, clock.now()).await.unwrap();
    let client = Client::new([&app].into_iter().chain(&other)).with_key(&admin.api_key);
    TestApp { app, other, fleet, clock, admin, client, _test: test }
}

async fn wire(config: ControlConfig, clock: Clock, db: Db, machines: &FakeFleet) -> App {
    let authority = Authority::for_tests(clock.clone());
    let hosts = Hosts::open(db.clone(), clock.clone(), config.hosts.clone(), authority.clone(), Loopback::Allowed)
        .await
        .unwrap();
    let fleet = Fleet::new(Arc::new(machines.clone()), Arc::new(machines.clone()), FleetSettings::default());
    let tls = agent_client_config(&authority).unwrap();
    let tunnels = Tunnels::new("test".to_owned(), &tls, Arc::new(hosts.clone()));
    let tokens = UserTokens::load(&db, config.jwt_key.as_deref(), clock.now()).await.unwrap();
    let identities = Identities::load(&db, &clock, "https://atoll.example").await.unwrap();
    let tasks = TaskTracker::new();
    let mailer = Mailer::new(&config).unwrap();
    let placer: Arc<dyn Placer> = Arc::new(machines.clone());
    let objects = Objects::open(&config.data_dir).unwrap();
    let layers = Layers::new(db.clone(), clock.clone(), fleet.clone(), objects);
    let secrets = Secrets::new(db.clone(), clock.clone(), Cipher::load(None, &config.data_dir).unwrap());
    let sources = Sources { layers: layers.clone(), secrets: secrets.clone() };
    let sandboxes =
        Sandboxes::new(db.clone(), clock.clone(), fleet.clone(), placer, sources, &config.http, tasks.clone())
            .with_quotas(config.quotas.into());
    let volumes = Volumes::new(db.clone(), clock.clone(), config.quotas.into());
    let registries = Registries::new(config.registry_allow.clone()).unwrap();
    let puller = Puller { db: db.clone(), clock: clock.clone(), objects: layers.objects().clone(), registries };
    let builds = Builds::new(db.clone(), clock.clone(), sandboxes.clone(), layers.clone(), puller, "test".to_owned());
    let sender = crate::webhooks::Sender::new(&config.webhook_allow, config.version);
    let replica = "test".to_owned();
    let reconcile = Reconcile::new(&db, &clock, &hosts, &fleet, &secrets, config.resume_on_reconnect);
    App::new(Parts {
        registry: Registry::new(db.clone(), clock.clone(), layers.objects().clone()),
        webhooks: crate::webhooks::Worker {
            db: db.clone(),
            clock: clock.clone(),
            sender,
            cipher: Arc::clone(secrets.cipher()),
            replica,
        },
        builds,
        accounts: Accounts::new(db.clone(), clock.clone(), tokens, AccountSettings::from(&config), mailer),
        snapshots: Snapshots::new(db.clone(), clock.clone(), sandboxes.clone(), layers.clone()),
        sandboxes,
        layers,
        secrets,
        volumes,
        reconcile,
        requests: Arc::new(Semaphore::new(config.http.max_requests)),
        host_requests: Arc::new(Semaphore::new(config.http.max_host_requests)),
        places: Places::new(&config.http),
        config,
        clock,
        db,
        hosts,
        identities,
        feed: crate::events::Feed::default(),
        listeners: crate::http::Listeners::default(),
        tunnels,
        replica: "test".to_owned(),
        tasks,
        shutdown: CancellationToken::new(),
        metrics: HttpMetrics::default(),
        otlp: Default::default(),
        key_uses: Mutex::default(),
        signed: Default::default(),
    })
}

impl TestApp {
    pub fn team(&self) -> &TeamId {
        &self.admin.team_id
    }

    /// Every replica that clients ask.
    pub fn replicas(&self) -> impl Iterator<Item = &App> {
        std::iter::once(&self.app).chain(&self.other)
    }

    /// Lets every replica read the outbox.
    pub fn run_feeds(&self) {
        for app in self.replicas() {
            tokio::spawn(app.feed.clone().run(app.db.clone(), app.shutdown.clone()));
        }
    }

    /// Waits until what runs behind the answers is done.
    pub async fn settle(&self) {
        for app in self.replicas() {
            app.tasks.close();
            app.tasks.wait().await;
            app.tasks.reopen();
        }
    }

    /// A client, without credentials, of another control on the same database.
    pub async fn replica(&self) -> Client {
        let (config, clock) = (self.app.config.clone(), self.clock.clone());
        let app = wire(config, clock, self.app.db.clone(), &self.fleet).await;
        Client::new([&app])
    }

    /// A client of another team.
    pub async fn another_team(&self) -> Client {
        let (id, now) = (TeamId::new(), self.clock.now());
        let mut tx = self.app.db.begin().await.unwrap();
        insert_team(&mut tx, &id, "Other", id.tail(), &self.admin.user_id, now).await.unwrap();
        let new = NewKey::unlimited(&id, "other", None);
        let made = api_keys::insert(&mut tx, &new, &Actor::System, &Origin::default(), now).await.unwrap();
        tx.commit().await.unwrap();
        self.client.with_key(&made.secret)
    }
}

/// A host of the fake fleet is one of the database too: regular, online, ready.
pub async fn insert_online_host(test: &TestApp, host: &HostId) {
    let (db, rows) = test.fleet.rows();
    let mut rows = rows.lock().await;
    insert_host(&db, host, "online", test.clock.now()).await;
    rows.insert(host.clone());
}

async fn insert_host(db: &Db, host: &HostId, status: &str, now: Millis) {
    crate::db::on!(write db, |c| sqlx::query(
        "INSERT INTO hosts (id, name, type, status, status_changed_at, draining, drivers, capacity_cpu_millis,
         capacity_memory_mb, capacity_disk_mb, used_cpu_millis, used_memory_mb, used_disk_mb, sandboxes_running,
         sandboxes_paused, sandboxes_other, inventory_complete, ready, cached_images, created_at, updated_at)
         VALUES ($1, $1, 'regular', $3, $2, FALSE, '[]', 1, 1, 1, 0, 0, 0, 0, 0, 0, TRUE, TRUE, '[]', $2, $2)
         ON CONFLICT (id) DO UPDATE SET status = CASE WHEN $3 = 'pending' THEN hosts.status ELSE $3 END"
    )
    .bind(host.as_str())
    .bind(now)
    .bind(status)
    .execute(c)
    .await
    .map(|_| ()))
    .unwrap();
}
