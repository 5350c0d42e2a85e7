//! The connections to one host at one location.
//!
//! Two HTTP/2 lanes ([`Lane`]), dialled when first used and again when they break, one dial at a time with all
//! waiters sharing its outcome; and a set of HTTP/1.1 connections for bulk, each carrying one request at a time.
//! A request that was never written because its pooled connection had just died is sent once more on a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::{HostId, SandboxId};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::dial::{Dial, Http};
use super::{FleetBody, FleetError, FleetSettings, HostLocation};
use crate::shares::Shares;

/// Which of the multiplexed connections.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// The host's own service.
    Rpc,
    /// Small unary calls into sandboxes.
    Guest,
}

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Idle bulk connections are closed after this; shorter than what an agent may allow itself.
const BULK_IDLE: Duration = Duration::from_secs(30);
/// A call given up after this long without an answer puts its connection under suspicion.
const SUSPICIOUS: Duration = Duration::from_secs(1);

type Two = http2::SendRequest<FleetBody>;
type One = http1::SendRequest<FleetBody>;

pub(super) struct HostChannels {
    host: HostId,
    location: HostLocation,
    dial: Arc<dyn Dial>,
    settings: FleetSettings,
    rpc: Multiplexed,
    guest: Multiplexed,
    bulk: Shares<SandboxId>,
    /// Of what belongs to no sandbox.
    own_bulk: Semaphore,
    idle: Mutex<Vec<(One, Instant)>>,
}

/// One HTTP/2 connection, or the way to get it.
#[derive(Default)]
struct Multiplexed {
    sender: Mutex<Option<(u64, Two)>>,
    dialling: tokio::sync::Mutex<()>,
    /// Counts dials; with it goes the outcome of the last one, if it failed.
    dials: AtomicU64,
    failed: Mutex<Option<FleetError>>,
}

impl Multiplexed {
    fn current(&self) -> Option<(u64, Two)> {
        let mut sender = lock(&self.sender);
        if sender.as_ref().is_some_and(|(_, sender)| sender.is_closed()) {
            *sender = None;
        }
        sender.clone()
    }

    /// Lets the next request dial anew; what is under way on the old connection goes on.
    fn abandon(&self, number: u64) {
        let mut sender = lock(&self.sender);
        if sender.as_ref().is_some_and(|(current, _)| *current == number) {
            *sender = None;
        }
    }
}

impl HostChannels {
    pub(super) fn new(host: HostId, location: HostLocation, dial: Arc<dyn Dial>, settings: FleetSettings) -> Self {
        let bulk = Shares::new(settings.max_bulk, settings.max_bulk_of_sandbox);
        let own_bulk = Semaphore::new(settings.max_bulk_of_sandbox);
        let (rpc, guest) = (Multiplexed::default(), Multiplexed::default());
        Self { host, location, dial, settings, rpc, guest, bulk, own_bulk, idle: Mutex::default() }
    }

    pub(super) fn location(&self) -> &HostLocation {
        &self.location
    }

    /// Sends on a shared HTTP/2 connection.
    pub(super) async fn multiplexed(
        &self,
        lane: Lane,
        mut request: Request<FleetBody>,
    ) -> Result<Response<Incoming>, FleetError> {
        let connection = match lane {
            Lane::Rpc => &self.rpc,
            Lane::Guest => &self.guest,
        };
        let attempted = request.uri().path().to_owned();
        *request.version_mut() = http::Version::HTTP_2;
        let mut retried = false;
        loop {
            let (number, mut sender) = self.connected(connection).await?;
            let mut watch = Watch { connection, number, since: Instant::now(), answered: false };
            let result = sender.try_send_request(request).await;
            watch.answered = true;
            match result {
                Ok(response) => return Ok(response),
                Err(mut error) => {
                    connection.abandon(number);
                    match error.take_message() {
                        Some(unsent) if !retried => {
                            retried = true;
                            request = unsent;
                        }
                        _ => return Err(self.broken(attempted, &error.into_error())),
                    }
                }
            }
        }
    }

    async fn connected(&self, connection: &Multiplexed) -> Result<(u64, Two), FleetError> {
        if let Some(sender) = connection.current() {
            return Ok(sender);
        }
        let seen = connection.dials.load(Ordering::Acquire);
        let _dialling = connection.dialling.lock().await;
        if let Some(sender) = connection.current() {
            return Ok(sender);
        }
        // Somebody dialled while this request waited, and failed: that is the answer for all who waited.
        if connection.dials.load(Ordering::Acquire) != seen
            && let Some(error) = lock(&connection.failed).clone()
        {
            return Err(error);
        }
        let result = self.dial_two().await;
        let number = connection.dials.fetch_add(1, Ordering::AcqRel) + 1;
        match result {
            Ok(sender) => {
                *lock(&connection.failed) = None;
                *lock(&connection.sender) = Some((number, sender.clone()));
                Ok((number, sender))
            }
            Err(error) => {
                *lock(&connection.failed) = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn dial_two(&self) -> Result<Two, FleetError> {
        let work = async {
            let wire = self.dial.dial(&self.host, &self.location, Http::Two).await.map_err(|e| e.to_string())?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(64 * 1024)
                .keep_alive_interval(self.settings.ping_interval)
                .keep_alive_timeout(self.settings.ping_timeout);
            let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(|e| e.to_string())?;
            let host = self.host.clone();
            // Ends when the last sender is dropped, or the connection breaks.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%host, %error, "connection to host ended");
                }
            });
            Ok(sender)
        };
        self.within_dial_timeout(work).await
    }

    /// Sends on a connection that carries nothing else meanwhile, for a sandbox or for control itself.
    pub(super) async fn bulk(
        &self,
        sandbox: Option<&SandboxId>,
        mut request: Request<FleetBody>,
    ) -> Result<Response<Incoming>, FleetError> {
        let attempted = request.uri().path().to_owned();
        let overloaded = || FleetError::Overloaded { host: self.host.clone() };
        let _place = match sandbox {
            Some(sandbox) => (Some(self.bulk.take(sandbox, 1).map_err(|_| overloaded())?), None),
            None => (None, Some(self.own_bulk.try_acquire().map_err(|_| overloaded())?)),
        };
        loop {
            let (mut sender, pooled) = match self.idle_bulk() {
                Some(sender) => (sender, true),
                None => (self.dial_one().await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // Only a pooled connection can have died before anything was written to it.
                    Some(unsent) if pooled => request = unsent,
                    _ => return Err(self.broken(attempted, &error.into_error())),
                },
            }
        }
    }

    /// A connection whose last answer has been read to its end.
    fn idle_bulk(&self) -> Option<One> {
        let mut idle = lock(&self.idle);
        idle.retain(|(sender, since)| !sender.is_closed() && (!sender.is_ready() || since.elapsed() < BULK_IDLE));
        let index = idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        Some(idle.swap_remove(index).0)
    }

    /// Keeps the connection for later; it is ready again when its answer has been read.
    fn keep(&self, sender: One) {
        let mut idle = lock(&self.idle);
        if idle.len() < self.settings.max_idle_bulk.max(1) {
            idle.push((sender, Instant::now()));
        }
    }

    async fn dial_one(&self) -> Result<One, FleetError> {
        let work = async {
            let wire = self.dial.dial(&self.host, &self.location, Http::One).await.map_err(|e| e.to_string())?;
            let mut builder = http1::Builder::new();
            builder.max_buf_size(512 * 1024);
            let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(|e| e.to_string())?;
            let host = self.host.clone();
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%host, %error, "bulk connection to host ended");
                }
            });
            Ok(sender)
        };
        self.within_dial_timeout(work).await
    }

    async fn within_dial_timeout<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, FleetError> {
        let outcome = tokio::time::timeout(self.settings.dial_timeout, work).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no connection within {:?}", self.settings.dial_timeout)));
        outcome.map_err(|cause| FleetError::Unavailable {
            host: self.host.clone(),
            attempted: format!("connect to {}", self.location.address),
            cause: cause.into(),
        })
    }

    fn broken(&self, attempted: String, error: &hyper::Error) -> FleetError {
        let mut cause = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            cause = format!("{cause}: {inner}");
            source = inner.source();
        }
        FleetError::Unavailable { host: self.host.clone(), attempted, cause: cause.into() }
    }
}

/// Notices a call that was given up before it was answered: its connection may be dead without knowing it.
struct Watch<'a> {
    connection: &'a Multiplexed,
    number: u64,
    since: Instant,
    answered: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() > SUSPICIOUS {
            self.connection.abandon(self.number);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
