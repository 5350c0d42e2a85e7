//! Starting and ending the control plane: the wiring, the background jobs, the order of the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{AccountSettings, Accounts, FirstAdmin, SetupError, Unkept, UserTokens};
use crate::app::{App, Parts};
use crate::builds::Builds;
use crate::clock::Clock;
use crate::config::{ControlConfig, SchedulerKind};
use crate::db::{Db, leases};
use crate::fleet::{Fleet, FleetSettings, LeastLoaded, Limits, Placement, RoundRobin, Scheduler, TcpDialer, Tunnels};
use crate::hosts::{Hosts, Loopback, objection};
use crate::http::listener::{self, Tls};
use crate::http::metrics::HttpMetrics;
use crate::http::places::Places;
use crate::identities::Identities;
use crate::layers::Layers;
use crate::mail::Mailer;
use crate::objects::{ObjectError, Objects};
use crate::oci::{Puller, Registries};
use crate::pki::{Authority, agent_client_config};
use crate::reconcile::Reconcile;
use crate::registry::Registry;
use crate::sandboxes::{Placer, Sandboxes, Sources};
use crate::secrets::Secrets;
use crate::secrets::cipher::Cipher;
use crate::snapshots::Snapshots;
use crate::templates::shipped::Shipped;
use crate::templates::{BaseImage, store as templates};
use crate::volumes::Volumes;
use crate::webhooks::{Sender, Worker};
use crate::{http, jobs, signing};

/// Longer than any token is good: those of programs that a person has let in last 30 days.
const KEY_OVERLAP: Duration = Duration::from_secs(31 * 24 * 3600);
/// How long connections and tasks may take to end in order.
const DRAIN: Duration = Duration::from_secs(10);

/// A running control plane.
pub struct Control {
    app: App,
    shipped: Shipped,
    local_addr: SocketAddr,
    server: JoinHandle<()>,
}

impl Control {
    /// Opens the database, starts the jobs and listens. Ends when `shutdown` is cancelled; see [`Control::wait`].
    ///
    /// # Errors
    /// When the database, the keys, the certificate or the address can't be had; the chain of causes says which.
    pub async fn start(config: ControlConfig, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let url = config.database_url.as_ref().map(ExposeSecret::expose_secret);
        let db = Db::open(url, &config.data_dir).await?;
        let authority = Authority::open(&db, clock.clone()).await.context("opening the certificate authority")?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listening on {} (--listen chooses another address)", config.listen))?;
        let local_addr = listener.local_addr().context("asking for the listener's address")?;
        let tls = Tls::load(&authority, config.tls.as_ref()).context("loading the TLS certificate")?;
        let tasks = TaskTracker::new();
        let objects = match &config.bucket {
            Some(settings) => Objects::open_bucket(&config.data_dir, settings).await,
            None => Objects::open(&config.data_dir)
                .map_err(|source| ObjectError::other("opening the folder of the object store", source)),
        };
        let objects = objects.context("opening the object store (--object-store)")?;
        let shipped = Shipped::new(
            (db.clone(), clock.clone(), objects.clone()),
            (tasks.clone(), shutdown.clone()),
            config.cache_dir.clone(),
            config.shipped.clone(),
        );
        let app = wire(config, clock, db, authority, local_addr, (shipped.clone(), objects), tasks, shutdown).await?;
        jobs::spawn(&app);
        let router = http::router(app.clone());
        let server = tokio::spawn(listener::serve(app.clone(), listener, tls, router));
        tracing::info!(address = %local_addr, database = app.db.kind(), version = app.config.version, "listening");
        Ok(Self { app, shipped, local_addr, server })
    }

    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Makes the first admin with a team and an API key, if there is no account at all; the secrets are in the answer
    /// and nowhere else.
    ///
    /// # Errors
    /// When hashing or the database fails.
    pub async fn first_admin(
        &self,
        email: &str,
        password: Option<SecretString>,
    ) -> Result<Option<FirstAdmin>, SetupError> {
        self.app.accounts.first_admin(email, password).await
    }

    /// The same with a password that is made up. `keep` writes down what there is to know before the admin is there for good:
    /// a start that is cut can be repeated.
    ///
    /// # Errors
    /// When hashing, the database or `keep` fails; then nobody was made.
    pub async fn first_admin_kept(
        &self,
        email: &str,
        keep: impl FnOnce(&FirstAdmin) -> Result<(), Unkept> + Send,
    ) -> Result<Option<FirstAdmin>, SetupError> {
        self.app.accounts.first_admin_kept(email, keep).await
    }

    /// A token with which the first admin can be made over the API (`POST /v1/auth/setup`), if there is no account at
    /// all; only the one made last is worth anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn setup_token(&self) -> Result<Option<SecretString>, SetupError> {
        self.app.accounts.setup_token().await
    }

    /// Makes the platform's template `base` point to this image, and names the others that ship.
    ///
    /// # Errors
    /// When the database fails, or the image can't be put into an object store that replicas share.
    pub async fn register_base(&self, image: &BaseImage) -> anyhow::Result<()> {
        self.shipped.share(image).await?;
        templates::register_base(&self.app.db, image, self.app.clock.now()).await?;
        self.shipped.announce().await?;
        if self.app.config.build_ahead {
            self.shipped.build_ahead(&self.app.replica);
        }
        Ok(())
    }

    /// Waits until `shutdown` has been cancelled and everything has ended: requests under way are answered, work that
    /// was begun is finished, the database is closed.
    ///
    /// # Errors
    /// When the server ended by itself.
    pub async fn wait(self) -> anyhow::Result<()> {
        let ended = self.server.await;
        let in_order = self.app.shutdown.is_cancelled();
        self.app.shutdown.cancel();
        self.app.tasks.close();
        if tokio::time::timeout(DRAIN, self.app.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        self.app.db.close().await;
        ended.context("the server's task failed")?;
        anyhow::ensure!(in_order, "the server ended by itself");
        Ok(())
    }
}

/// Makes new signing keys of tokens, in the database that a server with these settings uses; it may be running. What the
/// older ones signed stays good until it is over, or ends now with `at_once`: then everybody signs in again, and hosts
/// refresh their tokens. Answers the new keys' ids.
///
/// # Errors
/// When the database can't be had.
pub async fn rotate_keys(database_url: Option<&str>, data_dir: &Path, at_once: bool) -> anyhow::Result<Vec<String>> {
    let db = Db::open(database_url, data_dir).await?;
    let overlap = if at_once { Duration::ZERO } else { KEY_OVERLAP };
    let now = Clock::system().now();
    let mut made = Vec::new();
    for purpose in [signing::USERS, signing::HOSTS, signing::WORKLOADS] {
        made.push(signing::rotate(&db, purpose, overlap, now).await?);
    }
    db.close().await;
    Ok(made)
}

/// The address that this server is known under: without one of the operator's, the one that it listens on.
fn issuer(config: &ControlConfig, local: SocketAddr) -> String {
    if let Some(url) = &config.public_url {
        return url.clone();
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let ip = match local.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, local.port()))
}

#[allow(clippy::too_many_arguments)]
async fn wire(
    config: ControlConfig,
    clock: Clock,
    db: Db,
    authority: Authority,
    local_addr: SocketAddr,
    (shipped, objects): (Shipped, Objects),
    tasks: TaskTracker,
    shutdown: CancellationToken,
) -> anyhow::Result<App> {
    let tokens = UserTokens::load(&db, config.jwt_key.as_deref(), clock.now())
        .await
        .context("loading the key of user tokens")?;
    let accounts =
        Accounts::new(db.clone(), clock.clone(), tokens, AccountSettings::from(&config), Mailer::new(&config)?);
    // Who listens on all addresses listens on loopback too: `atoll up` for others has its own machine's host there.
    let loopback = if local_addr.ip().is_loopback() || local_addr.ip().is_unspecified() {
        Loopback::Allowed
    } else {
        Loopback::Refused
    };
    let identities = Identities::load(&db, &clock, &issuer(&config, local_addr))
        .await
        .context("loading the key of sandboxes' identities")?;
    let client_tls = agent_client_config(&authority).context("making control's client certificate")?;
    let hosts = Hosts::open(db.clone(), clock.clone(), config.hosts.clone(), authority, loopback)
        .await
        .context("opening the hosts")?;
    // SQLite is one server's own, and the one before this has ended.
    if matches!(db, Db::Sqlite { .. }) {
        leases::end_all(&db).await?;
    }
    let replica = format!("{}-{}", std::process::id(), hex::encode(rand::random::<[u8; 4]>()));
    let tunnels = Tunnels::new(replica.clone(), &client_tls, Arc::new(hosts.clone()));
    let dialer = TcpDialer::new(&client_tls)
        .with_objection(Arc::new(move |ip| objection(ip, loopback)))
        .with_tunnels(Arc::new(tunnels.clone()));
    let fleet = Fleet::new(hosts.directory(), Arc::new(dialer), FleetSettings::default());
    let scheduler: Arc<dyn Scheduler> = match config.scheduler {
        SchedulerKind::RoundRobin => Arc::new(RoundRobin::default()),
        SchedulerKind::LeastLoaded => Arc::new(LeastLoaded::default()),
    };
    let limits = Limits { stale_after: config.hosts.stale_after, overcommit: config.overcommit };
    let placer: Arc<dyn Placer> = Arc::new(Placement::new(hosts.candidates(), scheduler, limits));
    let layers = Layers::new(db.clone(), clock.clone(), fleet.clone(), objects);
    let cipher = Cipher::load(config.secrets_key.as_deref(), &config.data_dir).context("loading the key of secrets")?;
    let secrets = Secrets::new(db.clone(), clock.clone(), cipher);
    secrets.check_key().await?;
    let reconcile = Reconcile::new(&db, &clock, &hosts, &fleet, &secrets, config.resume_on_reconnect);
    let volumes = Volumes::new(db.clone(), clock.clone(), config.quotas.into());
    let sources = Sources { layers: layers.clone(), secrets: secrets.clone() };
    let sandboxes = Sandboxes::new(db.clone(), clock.clone(), fleet, placer, sources, &config.http, tasks.clone())
        .with_quotas(config.quotas.into())
        .with_shipped(shipped);
    let registries = Registries::new(config.registry_allow.clone()).context("setting up TLS for registries")?;
    let puller = Puller { db: db.clone(), clock: clock.clone(), objects: layers.objects().clone(), registries };
    let builds = Builds::new(db.clone(), clock.clone(), sandboxes.clone(), layers.clone(), puller, replica.clone());
    let snapshots = Snapshots::new(db.clone(), clock.clone(), sandboxes.clone(), layers.clone());
    let sender = Sender::new(&config.webhook_allow, config.version);
    let cipher = Arc::clone(secrets.cipher());
    crate::webhooks::sealed::seal_plain(&db, &cipher).await?;
    let webhooks = Worker { db: db.clone(), clock: clock.clone(), sender, cipher, replica: replica.clone() };
    Ok(App::new(Parts {
        registry: Registry::new(db.clone(), clock.clone(), layers.objects().clone()),
        requests: Arc::new(Semaphore::new(config.http.max_requests)),
        host_requests: Arc::new(Semaphore::new(config.http.max_host_requests)),
        places: Places::new(&config.http),
        config,
        clock,
        db,
        accounts,
        hosts,
        identities,
        sandboxes,
        layers,
        secrets,
        volumes,
        snapshots,
        builds,
        reconcile,
        feed: crate::events::Feed::default(),
        listeners: http::Listeners::default(),
        tunnels,
        replica,
        webhooks,
        signed: Default::default(),
        tasks,
        shutdown,
        metrics: HttpMetrics::default(),
        otlp: Default::default(),
        key_uses: std::sync::Mutex::default(),
    }))
}
