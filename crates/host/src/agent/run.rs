//! An agent from its start to its end.
//!
//! The order of the start: the data directory's lock, the listener's socket, the records, what sandboxes are made of,
//! the credentials; then recovery beside the first heartbeats. The order of the end: no new work, what is under way
//! comes to rest, a last heartbeat; sandboxes live on. Only when none is left does nothing of this data directory stay
//! in the kernel.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use atoll_model::HostId;
use atoll_rpc::atoll::host::v1::HostServiceExt;
use atoll_rpc::connectrpc::{self, Limits as RpcLimits};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::body::HostBody;
use super::control::HttpControl;
use super::credentials::{CredentialStore, Durability, replace};
use super::endpoint::Endpoint;
use super::enrolment::{self, Enrolment};
use super::heartbeat::decision::Timing;
use super::heartbeat::memory::ContactMemory;
use super::heartbeat::{End, Heartbeat, interval_of};
use super::image_source::ControlImages;
use super::listener::Listener;
use super::machine_specs::{memory_bytes, own_address, specs};
use super::peer::server_config;
use super::proxy;
use super::readiness::Readiness;
use super::registration_token::RegistrationToken;
use super::renewal::Renewal;
use super::service::HostService;
use super::trust::Trust;
use crate::config::{DriverChoice, HostConfig};
use crate::driver::{ContainerConfig, ContainerDriver, Driver, host_boot_id, sealed_program};
use crate::images::{ImageOptions, Images};
use crate::instance::{Instance, InstanceLock};
use crate::network::{Network, NetworkConfig};
use crate::sandboxes::floor::Floor;
use crate::sandboxes::{Keeper, Record, Records, Torn};
use crate::slots::{Slots, SlotsConfig};
use crate::storage::{Pool, PoolOptions};

/// What creates under way get at a shutdown.
const SETTLE: Duration = Duration::from_secs(10);
/// What destroying everything gets when the host was deleted.
const DESTROY_ALL: Duration = Duration::from_secs(120);
/// An order of control is one small message.
const MAX_MESSAGE: usize = 4 << 20;

/// What the world may know of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Set once the host is enrolled.
    pub host_id: Option<HostId>,
    /// A create would succeed; until then `problem` says what is missing.
    pub ready: bool,
    pub problem: Option<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct HostHandle {
    bound: SocketAddr,
    status: watch::Receiver<Status>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl HostHandle {
    /// Where it listens for control.
    #[must_use]
    pub const fn bound_address(&self) -> SocketAddr {
        self.bound
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Told at every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the agent has ended: by its token, because control deleted the host, or by an error.
    ///
    /// # Errors
    /// When the agent could not start or go on.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.task.await.context("the agent's task was lost")?
    }
}

/// The host that a data directory is enrolled as, if it is.
///
/// # Errors
/// When its credentials are damaged.
pub fn enrolled_host(data_dir: &Path) -> anyhow::Result<Option<HostId>> {
    if !data_dir.join("credentials").exists() {
        return Ok(None);
    }
    Ok(CredentialStore::open(data_dir)?.host_id())
}

/// Runs an agent until `shutdown`; also ends, well, when control deletes the host.
///
/// # Errors
/// When it could not start or go on.
pub async fn run(config: HostConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    start(config, shutdown).await?.wait().await
}

/// Starts an agent; answers when its socket is bound and it has the data directory for itself.
///
/// # Errors
/// When another agent works on the data directory, or a setting is wrong.
pub async fn start(config: HostConfig, shutdown: CancellationToken) -> anyhow::Result<HostHandle> {
    if config.driver == DriverChoice::Vm {
        bail!("this version of the agent offers the driver `container` only");
    }
    let endpoint = Endpoint::parse(&config.server_url)?;
    let token = config.register_token.as_ref().map(RegistrationToken::parse).transpose()?;
    let instance = Instance::open(&config.data_dir).context("opening the data directory")?;
    let lock = instance.lock().context("taking the data directory")?;
    raise_descriptor_limit();
    let store = Arc::new(CredentialStore::open(instance.data_dir())?);
    if store.load().is_none() && token.is_none() {
        bail!(
            "this host is not enrolled: make a host and its registration token (`atoll host create`, or POST \
             /v1/hosts), then run: atoll host --server {} --register TOKEN",
            config.server_url
        );
    }
    let listener = bind(&config, instance.data_dir()).await?;
    let bound = listener.bound();
    let starting = Status { problem: Some("the agent is starting".to_owned()), ..Status::default() };
    let (status, watched) = watch::channel(starting);
    let agent = Agent { config, endpoint, token, instance, store, status, shutdown, _lock: lock };
    let task = tokio::spawn(agent.run(listener));
    Ok(HostHandle { bound, status: watched, task })
}

/// The address of the configuration; for port 0, the port of the last run if it is free.
async fn bind(config: &HostConfig, data_dir: &Path) -> anyhow::Result<Listener> {
    let memory = data_dir.join("listen-port");
    let last = std::fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let listener = match last {
        Some(port) if config.listen.port() == 0 => {
            match Listener::bind(SocketAddr::new(config.listen.ip(), port)).await {
                Ok(listener) => listener,
                Err(_) => Listener::bind(config.listen).await?,
            }
        }
        _ => Listener::bind(config.listen).await?,
    };
    if let Err(error) = replace(&memory, listener.bound().port().to_string().as_bytes(), Durability::Process) {
        tracing::warn!(%error, "the port can't be remembered for the next start");
    }
    Ok(listener)
}

/// Every sandbox takes a few descriptors of the agent's.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

struct Agent {
    config: HostConfig,
    endpoint: Endpoint,
    token: Option<RegistrationToken>,
    instance: Instance,
    store: Arc<CredentialStore>,
    status: watch::Sender<Status>,
    shutdown: CancellationToken,
    /// Held as long as anything here works on the data directory.
    _lock: InstanceLock,
}

/// What stands of the floors when building them fails half way.
#[derive(Default)]
struct Foundations {
    slots: Option<Arc<Slots>>,
    network: Option<Arc<Network>>,
    pool: Option<Arc<Pool>>,
    driver: Option<Arc<ContainerDriver>>,
}

impl Foundations {
    /// In the reverse order. With sandboxes on this host, what they need stays.
    async fn take_down(self, has_sandboxes: bool) {
        if let Some(driver) = self.driver {
            driver.shut_down().await;
        }
        if let Some(pool) = self.pool.filter(|_| !has_sandboxes)
            && let Ok(Err(error)) = tokio::task::spawn_blocking(move || pool.close()).await
        {
            tracing::error!(%error, "the storage pool could not be unmounted");
        }
        if let Some(network) = self.network
            && let Err(error) = network.shutdown(has_sandboxes).await
        {
            tracing::error!(%error, "the network could not be brought down");
        }
        if let Some(slots) = self.slots.filter(|_| !has_sandboxes)
            && let Err(error) = slots.release_all()
        {
            tracing::error!(%error, "the claim on the machine's slots could not be given up");
        }
    }
}

/// What sandboxes are made of, and their keeper.
struct House {
    floor: Arc<Floor>,
    keeper: Keeper,
    control: Arc<HttpControl>,
    records: Vec<Record>,
    torn: Vec<Torn>,
}

impl Agent {
    async fn run(self, listener: Listener) -> anyhow::Result<()> {
        let result = self.live(listener).await;
        let problem = match &result {
            Ok(()) => "the agent has ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        self.status.send_modify(|status| {
            status.ready = false;
            status.problem = Some(problem);
        });
        result
    }

    async fn live(&self, listener: Listener) -> anyhow::Result<()> {
        let address = self.config.address.clone().unwrap_or_else(|| own_address(&self.endpoint, listener.bound()));
        let specs = specs(self.instance.data_dir(), &self.config.version);
        let records = Records::open(self.instance.data_dir())?;
        let (found, torn) = records.load()?;
        let has_sandboxes = !found.is_empty() || !torn.is_empty();
        if let Some(token) = self.token.as_ref().filter(|token| enrolment::is_wanted(&self.store, token)) {
            let enrolment = Enrolment {
                endpoint: &self.endpoint,
                token,
                address: address.clone(),
                specs: specs.clone(),
                has_sandboxes,
            };
            if !enrolment::enrol(&self.store, enrolment, &self.shutdown).await? {
                return Ok(());
            }
        }
        let stored = self.store.load().context("this host has no credentials")?;
        let host_id = stored.current.host_id().clone();
        self.status.send_modify(|status| status.host_id = Some(host_id));
        listener.tls().store(Some(server_config(&stored.current)?));

        let house = match self.build(records, found, torn).await {
            Ok(house) => house,
            Err((error, foundations)) => {
                foundations.take_down(has_sandboxes).await;
                return Err(error);
            }
        };
        let floor = house.floor.clone();
        let keeper = house.keeper.clone();
        let end = self.serve(house, listener, address, specs).await;

        match end {
            Ok(End::Deleted) => {
                if !keeper.destroy_all(DESTROY_ALL).await {
                    tracing::error!("not everything could be destroyed in time; the next start of the agent goes on");
                }
                let sandboxes_left = keeper.close(Duration::ZERO).await;
                floor.shut_down(sandboxes_left).await;
                if sandboxes_left {
                    bail!("the host was deleted, but some of its sandboxes could not be destroyed");
                }
                self.store.forget()?;
                ContactMemory::new(self.instance.data_dir(), String::new()).forget();
                tracing::warn!("this host was deleted: nothing of it is left here");
                Ok(())
            }
            Ok(End::ShutDown) => {
                let sandboxes_left = keeper.close(SETTLE).await;
                floor.shut_down(sandboxes_left).await;
                Ok(())
            }
            Err(error) => {
                let sandboxes_left = keeper.close(Duration::ZERO).await;
                floor.shut_down(sandboxes_left).await;
                Err(error)
            }
        }
    }

    /// The floors below, in the order in which they need each other. With an error come those that stood already.
    async fn build(
        &self,
        records: Records,
        found: Vec<Record>,
        torn: Vec<Torn>,
    ) -> Result<House, (anyhow::Error, Foundations)> {
        let mut foundations = Foundations::default();
        match self.lay(&mut foundations, records, found, torn).await {
            Ok(house) => Ok(house),
            Err(error) => Err((error, foundations)),
        }
    }

    async fn lay(
        &self,
        foundations: &mut Foundations,
        records: Records,
        found: Vec<Record>,
        torn: Vec<Torn>,
    ) -> anyhow::Result<House> {
        let stored = self.store.load().context("this host has no credentials")?;
        let trust = Trust::in_ca(&stored.current.credentials.ca)?;
        let control = Arc::new(HttpControl::new(self.endpoint.clone(), &trust, &self.config.version)?);
        let data_dir = self.instance.data_dir().to_owned();
        let egress_allow = self.config.egress_allow.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let egress_allow = egress_allow.context("reading the networks that sandboxes may reach")?;
        let program = sealed_program(self.config.guest_binary).context("loading the guest agent")?;

        let in_use: Vec<_> = found.iter().filter_map(|record| record.slot).collect();
        let closed = found.iter().filter(|record| record.spec.deny_egress);
        let closed: Vec<_> = closed.filter_map(|record| record.slot).collect();
        let slots = Slots::open(&self.instance, SlotsConfig::default(), &in_use).context("claiming slots")?;
        let slots = foundations.slots.insert(Arc::new(slots)).clone();
        let network = NetworkConfig { egress_allow, ..NetworkConfig::default() };
        let network = Network::start(&self.instance, network, &slots, &closed).await.context("starting the network")?;
        let network = foundations.network.insert(Arc::new(network)).clone();
        let options = PoolOptions { size_limit: self.config.pool_bytes, ..PoolOptions::default() };
        let pool_dir = data_dir.clone();
        let pool = tokio::task::spawn_blocking(move || Pool::open(&pool_dir, &options))
            .await
            .context("opening the storage pool")?
            .context("opening the storage pool")?;
        let pool = foundations.pool.insert(Arc::new(pool)).clone();
        let images = Images::open(&data_dir, &self.config.cache_dir, ImageOptions::default())
            .context("opening the image store")?;
        let driver = ContainerDriver::start(ContainerConfig::new(self.instance.id(), program))
            .context("starting the container driver")?;
        let driver: Arc<dyn Driver> = foundations.driver.insert(Arc::new(driver)).clone();
        let fetch = Arc::new(ControlImages { control: control.clone(), store: self.store.clone() });
        let floor = Arc::new(Floor { driver, network, pool, images: Arc::new(images), slots, fetch });
        let keeper = Keeper::new(&data_dir, records, floor.clone(), self.config.limits.clone(), memory_bytes())
            .context("opening the sandboxes' records")?;
        Ok(House { floor, keeper, control, records: found, torn })
    }

    /// Answers control and beats until the end.
    async fn serve(
        &self,
        house: House,
        listener: Listener,
        address: String,
        specs: atoll_model::api::hosts::HostSpecs,
    ) -> anyhow::Result<End> {
        let House { floor, keeper, control, records, torn } = house;
        let terminate = CancellationToken::new();
        let stop = CancellationToken::new();
        let readiness = Readiness {
            keeper: keeper.clone(),
            floor: floor.clone(),
            pool_reserve_bytes: self.config.limits.pool_reserve_bytes,
        };
        let service = HostService {
            keeper: keeper.clone(),
            images: floor.images.clone(),
            readiness: readiness.clone(),
            version: self.config.version.clone(),
            boot_id: host_boot_id().to_owned(),
            terminate: terminate.clone(),
        };
        let (renewed, renewals) = watch::channel(());
        let tls = listener.tls();
        tokio::spawn(show_new_certificates(self.store.clone(), tls, renewals, stop.clone()));

        let found = keeper.recover(records, torn).await;
        tracing::info!(?found, "the sandboxes of this host are found again");
        floor.remove_strays(&keeper.ids()).await;

        let router = connect_router(service).merge(proxy::router(Arc::new(keeper.clone()), self.config.limits.streams));
        let listening = tokio::spawn(listener.serve(router, self.config.limits.connections, stop.clone()));
        tokio::spawn(watch_readiness(readiness.clone(), self.status.clone(), stop.clone()));

        let boot_id = host_boot_id().to_owned();
        let settings = self.store.load().map(|stored| interval_of(&stored.current.credentials.settings));
        let interval = self.config.heartbeat_interval.or(settings).unwrap_or(Duration::from_secs(30));
        let heartbeat = Heartbeat {
            control: control.clone(),
            store: self.store.clone(),
            renewal: Renewal { control, store: self.store.clone(), renewed },
            body: Arc::new(HostBody {
                keeper: keeper.clone(),
                readiness,
                specs,
                address,
                boot_id: boot_id.clone(),
                data_dir: self.instance.data_dir().to_owned(),
            }),
            memory: ContactMemory::new(self.instance.data_dir(), boot_id),
            timing: Timing {
                interval,
                disconnect_after: self.config.disconnect_after,
                on_disconnect: self.config.on_disconnect,
            },
            interval_override: self.config.heartbeat_interval,
            server_url: self.config.server_url.clone(),
        };
        let mut beating = tokio::spawn(heartbeat.run(self.shutdown.clone()));
        let end = tokio::select! {
            end = &mut beating => end.context("the heartbeat was lost"),
            () = terminate.cancelled() => {
                beating.abort();
                Ok(End::Deleted)
            }
        };
        // Control hears the answer to its last order before the listener goes.
        stop.cancel();
        let _ended = listening.await;
        end
    }
}

fn connect_router(service: HostService) -> axum::Router {
    let rpc = Arc::new(service).register(connectrpc::Router::new());
    let limits = RpcLimits::default().with_max_message_size(MAX_MESSAGE).with_max_request_body_size(MAX_MESSAGE);
    let service = connectrpc::ConnectRpcService::new(rpc).with_limits(limits);
    axum::Router::new().route_service("/atoll.host.v1.HostService/{method}", service)
}

/// Handshakes show the new certificate as soon as there is one.
async fn show_new_certificates(
    store: Arc<CredentialStore>,
    tls: Arc<arc_swap::ArcSwapOption<rustls::ServerConfig>>,
    mut renewals: watch::Receiver<()>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            changed = renewals.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let Some(stored) = store.load() else { continue };
        match server_config(&stored.current) {
            Ok(config) => tls.store(Some(config)),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the renewed certificate is unusable"),
        }
    }
}

/// Keeps the public status true.
async fn watch_readiness(readiness: Readiness, status: watch::Sender<Status>, stop: CancellationToken) {
    let mut changes = readiness.keeper.changes();
    loop {
        let problem = readiness.problem();
        status.send_if_modified(|status| {
            let changed = status.problem != problem;
            status.ready = problem.is_none();
            status.problem = problem;
            changed
        });
        tokio::select! {
            _changed = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = stop.cancelled() => return,
        }
    }
}
