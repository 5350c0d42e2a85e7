//! An agent from its start to its end.
//!
//! The order of the start: the data directory's lock, the listener's socket, the records, what sandboxes are made of,
//! the credentials; then the heartbeat and the listener, which takes no orders until recovery is done. The order of the
//! end: no new work, what is under way comes to rest, a last heartbeat; sandboxes live on. Only when none is left does
//! nothing of this data directory stay in the kernel.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use atoll_model::api::hosts::TUNNEL_ADDRESS;
use atoll_rpc::atoll::host::v1::HostServiceExt;
use atoll_rpc::connectrpc::{self, Limits as RpcLimits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::body::HostBody;
use super::credentials::{CredentialStore, Durability, replace};
use super::drivers;
use super::early;
use super::endpoint::Endpoint;
use super::enrolment::{self, Enrolment};
use super::foundations::House;
use super::handle::{HostHandle, Status};
use super::heartbeat::decision::Timing;
use super::heartbeat::memory::ContactMemory;
use super::heartbeat::{End, Heartbeat, interval_of};
use super::listener::Listener;
use super::machine_specs::{own_address, specs};
use super::peer::server_config;
use super::proxy;
use super::readiness::Readiness;
use super::registration_token::RegistrationToken;
use super::renewal::Renewal;
use super::service::HostService;
use super::tunnel::Tunnel;
use crate::config::HostConfig;
use crate::driver::host_boot_id;
use crate::history::History;
use crate::instance::{Instance, InstanceLock};
use crate::sandboxes::{Keeper, Records};

/// What creates under way get at a shutdown.
const SETTLE: Duration = Duration::from_secs(10);
/// What destroying everything gets when the host was deleted.
const DESTROY_ALL: Duration = Duration::from_secs(120);
/// An order of control is one small message.
const MAX_MESSAGE: usize = 4 << 20;

/// There is nobody that this machine could be: starting it again changes nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "this host is not enrolled: make a host and its registration token (`atoll hosts create`, or POST /v1/hosts), \
     then run: atoll host --server {server_url} --register TOKEN"
)]
pub struct NotEnrolled {
    pub server_url: String,
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
    let endpoint = Endpoint::parse(&config.server_url)?;
    let token = config.register_token.as_ref().map(RegistrationToken::parse).transpose()?;
    let instance = Instance::open(&config.data_dir).context("opening the data directory")?;
    let lock = instance.lock().context("taking the data directory")?;
    raise_descriptor_limit();
    let store = Arc::new(CredentialStore::open(instance.data_dir())?);
    if store.load().is_none() && token.is_none() {
        return Err(NotEnrolled { server_url: config.server_url }.into());
    }
    let listener = bind(&config, instance.data_dir()).await?;
    let bound = listener.bound();
    let starting = Status { problem: Some("the agent is starting".to_owned()), ..Status::default() };
    let (status, watched) = watch::channel(starting);
    let drivers = drivers::on_offer(&config).await?;
    let agent = Agent { config, drivers, endpoint, token, instance, store, status, shutdown, _lock: lock };
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

pub(super) struct Agent {
    pub(super) config: HostConfig,
    /// On offer, the preferred one first.
    pub(super) drivers: Vec<String>,
    pub(super) endpoint: Endpoint,
    pub(super) token: Option<RegistrationToken>,
    pub(super) instance: Instance,
    pub(super) store: Arc<CredentialStore>,
    pub(super) status: watch::Sender<Status>,
    pub(super) shutdown: CancellationToken,
    /// Held as long as anything here works on the data directory.
    pub(super) _lock: InstanceLock,
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
        let address = match &self.config.address {
            _ if self.config.tunnel => TUNNEL_ADDRESS.to_owned(),
            Some(address) => address.clone(),
            None => own_address(&self.endpoint, listener.bound()),
        };
        let specs = specs(self.instance.data_dir(), &self.config.version, &self.drivers);
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
            if !enrolment::is_wanted(&self.store, token) {
                // Whatever came of the former credentials: with these the host is welcome from its first heartbeat.
                ContactMemory::new(self.instance.data_dir(), String::new()).forget();
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

    /// Answers control and beats until the end.
    async fn serve(
        &self,
        house: House,
        listener: Listener,
        address: String,
        specs: atoll_model::api::hosts::HostSpecs,
    ) -> anyhow::Result<End> {
        let House { floor, keeper, control, records, torn } = house;
        let (tunnel_open, tunnel_is_open) = watch::channel(false);
        let terminate = CancellationToken::new();
        let stop = CancellationToken::new();
        let readiness = Readiness {
            keeper: keeper.clone(),
            floor: floor.clone(),
            pool_reserve_bytes: self.config.limits.pool_reserve_bytes,
            tunnel: self.config.tunnel.then_some(tunnel_is_open),
        };
        let history = History::open(self.instance.data_dir(), keeper.clone(), floor.clone())
            .context("opening the histories of metrics")?;
        let service = HostService {
            keeper: keeper.clone(),
            history: history.clone(),
            images: floor.images.clone(),
            pool: floor.pool.clone(),
            machine: floor.clone(),
            readiness: readiness.clone(),
            version: self.config.version.clone(),
            boot_id: host_boot_id().to_owned(),
            terminate: terminate.clone(),
        };
        let (renewed, renewals) = watch::channel(());
        let tls = listener.tls();
        tokio::spawn(show_new_certificates(self.store.clone(), tls, renewals, stop.clone()));

        let files = super::image_files::router(floor.images.clone());
        let router = connect_router(service, keeper.clone())
            .merge(files)
            .merge(super::volume_files::router(floor.pool.clone()))
            .merge(proxy::router(Arc::new(keeper.clone()), self.config.limits.streams));
        let tunnel = Tunnel {
            control: control.clone(),
            store: self.store.clone(),
            tls: listener.tls(),
            router: router.clone(),
            max_connections: u32::try_from(self.config.limits.connections).unwrap_or(u32::MAX),
            open: tunnel_open,
        };
        let tunnelling = self.config.tunnel.then(|| tokio::spawn(tunnel.run(stop.clone())));
        let listening = tokio::spawn(listener.serve(router, self.config.limits.connections, stop.clone()));
        let (heard, hears) = watch::channel(false);
        tokio::spawn(watch_readiness(readiness.clone(), hears, self.status.clone(), stop.clone()));

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
                told_of_some: AtomicBool::new(false),
            }),
            memory: ContactMemory::new(self.instance.data_dir(), boot_id),
            timing: Timing {
                interval,
                disconnect_after: self.config.disconnect_after,
                on_disconnect: self.config.on_disconnect,
            },
            interval_override: self.config.heartbeat_interval,
            server_url: self.config.server_url.clone(),
            heard,
        };
        let mut beating = tokio::spawn(heartbeat.run(self.shutdown.clone()));

        let found = keeper.recover(records, torn).await;
        tracing::info!(?found, "the sandboxes of this host are found again");
        floor.remove_strays(&keeper.ids()).await;
        keeper.admit_orders();
        let sampling = tokio::spawn(history.run(stop.clone()));
        let trimming = tokio::spawn(super::image_room::keep(floor.images.clone(), keeper.clone(), stop.clone()));

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
        let _ended = sampling.await;
        let _ended = trimming.await;
        if let Some(tunnelling) = tunnelling {
            let _ended = tunnelling.await;
        }
        end
    }
}

fn connect_router(service: HostService, keeper: Keeper) -> axum::Router {
    let rpc = Arc::new(service).register(connectrpc::Router::new());
    let limits = RpcLimits::default().with_max_message_size(MAX_MESSAGE).with_max_request_body_size(MAX_MESSAGE);
    let service = connectrpc::ConnectRpcService::new(rpc).with_limits(limits);
    early::refusing(axum::Router::new().route_service("/atoll.host.v1.HostService/{method}", service), keeper)
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
async fn watch_readiness(
    readiness: Readiness,
    mut hears: watch::Receiver<bool>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) {
    let mut changes = readiness.keeper.changes();
    loop {
        let unheard = || "control has not accepted a heartbeat of this agent yet".to_owned();
        let problem = if *hears.borrow_and_update() { readiness.problem() } else { Some(unheard()) };
        status.send_if_modified(|status| {
            let changed = status.problem != problem;
            status.ready = problem.is_none();
            status.problem = problem;
            changed
        });
        tokio::select! {
            _changed = changes.changed() => {}
            Ok(()) = hears.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = stop.cancelled() => return,
        }
    }
}
