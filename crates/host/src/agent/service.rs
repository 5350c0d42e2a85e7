//! `HostService`: what control asks of this host, over Connect.
//!
//! Handlers unwrap the request, call the keeper and convert the answer. Who calls is known to be control before a
//! request gets here (see [`super::peer`]).

use std::sync::Arc;

use atoll_model::{LayerId, SandboxId, VolumeId};
use atoll_rpc::atoll::host::v1 as wire;
use atoll_rpc::connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use crate::driver::{Step, vm};
use crate::history::{History, Measured};
use crate::images::{ImageError, Images};
use crate::sandboxes::machine::Machine;
use crate::sandboxes::spec::{self, Layer};
use crate::sandboxes::{Answer, Keeper, OrderError, State, View};
use crate::storage::Pool;

/// Ids in one request for metrics.
const MAX_METRICS: usize = 10_000;
/// For whom a layer is readied, at most: whoever asks for more gets no more work done.
const MAX_CHILDREN: u32 = 100;

pub struct HostService {
    pub keeper: Keeper,
    pub history: History,
    pub images: Arc<Images>,
    pub pool: Arc<Pool>,
    pub machine: Arc<dyn Machine>,
    pub readiness: Readiness,
    pub version: String,
    pub boot_id: String,
    /// Control has ordered the end: destroy all, forget the credentials.
    pub terminate: CancellationToken,
}

impl From<OrderError> for ConnectError {
    fn from(error: OrderError) -> Self {
        let text = error.to_string();
        match error {
            OrderError::Invalid { .. } => Self::invalid_argument(text),
            OrderError::Unsupported { .. } | OrderError::WrongState { .. } => Self::failed_precondition(text),
            OrderError::NotFound { .. } => Self::not_found(text),
            OrderError::Stale { .. } | OrderError::Destroyed => Self::aborted(text),
            OrderError::Conflict { .. } => Self::already_exists(text),
            OrderError::Full { .. } | OrderError::Busy { .. } => Self::resource_exhausted(text),
            OrderError::NotAccepting { .. } => Self::unavailable(text),
            OrderError::Failed { .. } => Self::internal(text),
        }
    }
}

fn id(text: &str) -> Result<SandboxId, ConnectError> {
    text.parse().map_err(|error| ConnectError::invalid_argument(format!("id: {error}")))
}

fn layer_id(text: &str) -> Result<LayerId, ConnectError> {
    text.parse().map_err(|error| ConnectError::invalid_argument(format!("layer_id: {error}")))
}

/// Why one stands still.
fn checked_reason(reason: &str) -> Result<String, ConnectError> {
    if reason.len() > 256 {
        return Err(ConnectError::invalid_argument("reason: must be 256 bytes at most"));
    }
    Ok(reason.to_owned())
}

fn sandbox(view: &View) -> wire::Sandbox {
    wire::Sandbox {
        id: view.id.to_string(),
        generation: view.generation,
        state: state(view.state).into(),
        reason: view.reason.clone(),
        changed_at_ms: view.changed_at_ms,
        exit_code: view.exit_code,
        address: view.address().map(|address| address.to_string()).unwrap_or_default(),
        driver: view.driver.clone(),
        memory_bytes: view.memory_bytes,
        vcpus: view.vcpus,
        disk_bytes: view.disk_bytes,
        network_generation: view.policy_generation,
        ..Default::default()
    }
}

const fn state(state: State) -> wire::SandboxState {
    match state {
        State::Starting => wire::SandboxState::Starting,
        State::Running => wire::SandboxState::Running,
        State::Paused => wire::SandboxState::Paused,
        State::Exited => wire::SandboxState::Exited,
    }
}

fn known_state(state: Option<wire::SandboxState>) -> Option<State> {
    match state? {
        wire::SandboxState::SANDBOX_STATE_UNSPECIFIED => None,
        wire::SandboxState::SANDBOX_STATE_STARTING => Some(State::Starting),
        wire::SandboxState::SANDBOX_STATE_RUNNING => Some(State::Running),
        wire::SandboxState::SANDBOX_STATE_PAUSED => Some(State::Paused),
        wire::SandboxState::SANDBOX_STATE_EXITED => Some(State::Exited),
    }
}

fn steps(steps: &[Step]) -> Vec<wire::Step> {
    let one = |step: &Step| wire::Step {
        name: step.name.to_owned(),
        micros: u64::try_from(step.took.as_micros()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    steps.iter().map(one).collect()
}

fn described(answer: &Answer) -> wire::Sandbox {
    sandbox(&answer.view)
}

#[allow(refining_impl_trait)] // the handlers name their answers: easier to read, and nobody else implements them
impl wire::HostService for HostService {
    async fn create_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::CreateSandboxRequest>,
    ) -> ServiceResult<wire::CreateSandboxResponse> {
        let request = request.to_owned_message();
        let spec = request.spec.into_option().ok_or_else(|| ConnectError::invalid_argument("spec: is missing"))?;
        let env_of = (!request.env_of.is_empty()).then(|| id(&request.env_of)).transpose()?;
        let (id, generation) = (id(&request.id)?, request.generation);
        let answer = if request.at_rest.is_empty() {
            self.keeper.create_like(id, generation, spec, env_of.as_ref()).await?
        } else {
            self.keeper.create_at_rest(id, generation, spec, checked_reason(&request.at_rest)?).await?
        };
        Response::ok(wire::CreateSandboxResponse {
            sandbox: described(&answer).into(),
            steps: steps(&answer.steps),
            kept: answer.kept.as_str().to_owned(),
            ..Default::default()
        })
    }

    async fn destroy_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DestroySandboxRequest>,
    ) -> ServiceResult<wire::DestroySandboxResponse> {
        let id = id(request.id)?;
        tracing::debug!(sandbox = %id, reason = request.reason, "control orders a sandbox's end");
        self.keeper.destroy(&id, request.generation).await?;
        Response::ok(wire::DestroySandboxResponse::default())
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PauseSandboxRequest>,
    ) -> ServiceResult<wire::PauseSandboxResponse> {
        let reason = checked_reason(if request.reason.is_empty() { "user" } else { request.reason })?;
        let (id, generation) = (id(request.id)?, request.generation);
        let answer = if request.files_only {
            self.keeper.pause_files(&id, generation, reason).await?
        } else {
            self.keeper.pause(&id, generation, reason).await?
        };
        Response::ok(wire::PauseSandboxResponse {
            sandbox: described(&answer).into(),
            kept: answer.kept.as_str().to_owned(),
            freed_bytes: answer.freed_bytes,
            steps: steps(&answer.steps),
            ..Default::default()
        })
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ResumeSandboxRequest>,
    ) -> ServiceResult<wire::ResumeSandboxResponse> {
        let request = request.to_owned_message();
        let sandbox = id(&request.id)?;
        if request.network_generation > self.keeper.get(&sandbox)?.policy_generation
            && let Some(network) = request.network.into_option()
        {
            match self.keeper.set_policy(&sandbox, request.network_generation, spec::policy(network)?).await {
                // A later one came meanwhile: that is what it goes on under.
                Ok(_) | Err(OrderError::Stale { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let answer = self.keeper.resume(&sandbox, request.generation).await?;
        Response::ok(wire::ResumeSandboxResponse {
            sandbox: described(&answer).into(),
            kept: answer.kept.as_str().to_owned(),
            steps: steps(&answer.steps),
            ..Default::default()
        })
    }

    async fn get_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::GetSandboxRequest>,
    ) -> ServiceResult<wire::GetSandboxResponse> {
        let view = self.keeper.get(&id(request.id)?)?;
        Response::ok(wire::GetSandboxResponse { sandbox: sandbox(&view).into(), ..Default::default() })
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::ListSandboxesRequest>,
    ) -> ServiceResult<wire::ListSandboxesResponse> {
        // Asked first: what is found afterwards can only be more.
        let inventory_complete = self.keeper.inventory_complete();
        let sandboxes = self.keeper.list().iter().map(|view| sandbox(view)).collect();
        Response::ok(wire::ListSandboxesResponse { sandboxes, inventory_complete, ..Default::default() })
    }

    async fn acknowledge(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::AcknowledgeRequest>,
    ) -> ServiceResult<wire::AcknowledgeResponse> {
        for item in request.to_owned_message().items {
            if let Some(state) = known_state(item.state.as_known()) {
                self.keeper.acknowledge(&id(&item.id)?, item.generation, state);
            }
        }
        Response::ok(wire::AcknowledgeResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SandboxMetricsRequest>,
    ) -> ServiceResult<wire::SandboxMetricsResponse> {
        let ids = request.to_owned_message().ids;
        if ids.len() > MAX_METRICS {
            return Err(ConnectError::invalid_argument(format!("ids: must be {MAX_METRICS} at most")));
        }
        let (keeper, history) = (self.keeper.clone(), self.history.clone());
        // Reads files of the kernel for each sandbox: not on a thread that serves others.
        let read = tokio::task::spawn_blocking(move || metrics(&keeper, &history, &ids));
        let metrics = read.await.map_err(|_| ConnectError::internal("reading metrics: the task was lost"))??;
        Response::ok(wire::SandboxMetricsResponse { metrics, ..Default::default() })
    }

    async fn sandbox_history(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SandboxHistoryRequest>,
    ) -> ServiceResult<wire::SandboxHistoryResponse> {
        let (id, from, until) = (id(request.id)?, request.from, request.until);
        self.keeper.get(&id)?;
        let history = self.history.clone();
        let read = tokio::task::spawn_blocking(move || history.read(&id, from, until)).await;
        let read = read.map_err(|_| ConnectError::internal("reading a history: the task was lost"))?;
        let (step_sec, points) = read.map_err(|error| ConnectError::internal(format!("reading a history: {error}")))?;
        let points = points.iter().map(|point| wire::HistoryPoint {
            at: point.at,
            cpu_pct: f64::from(point.cpu_pct),
            memory_bytes: point.memory_bytes,
            disk_bytes: point.disk_bytes,
            net_rx_bytes: point.received_bytes,
            net_tx_bytes: point.sent_bytes,
            processes: u32::from(point.processes),
            ..Default::default()
        });
        let points = points.collect();
        Response::ok(wire::SandboxHistoryResponse { points, step_sec, ..Default::default() })
    }

    async fn read_environment(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ReadEnvironmentRequest>,
    ) -> ServiceResult<wire::ReadEnvironmentResponse> {
        let env = self.keeper.environment(&id(request.id)?)?;
        Response::ok(wire::ReadEnvironmentResponse { env: env.into_iter().collect(), ..Default::default() })
    }

    async fn snapshot_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SnapshotSandboxRequest>,
    ) -> ServiceResult<wire::SnapshotSandboxResponse> {
        let id = id(request.id)?;
        let (layer, children) = (layer_id(request.layer_id)?, request.children);
        let answer = self.keeper.snapshot(&id, layer.clone(), request.memory).await?;
        self.machine.spread(&layer, children.min(MAX_CHILDREN)).await;
        let keeper = self.keeper.clone();
        let machine = self.machine.clone();
        let asked = tokio::task::spawn_blocking(move || (keeper.usage(&id), machine.vm_version(&layer))).await;
        let (used, vm_version) = asked.map_or((None, None), |(used, version)| (used.ok(), version));
        Response::ok(wire::SnapshotSandboxResponse {
            vm_version: vm_version.unwrap_or_default(),
            kept: answer.kept.as_str().to_owned(),
            size_bytes: used.map_or(0, |used| used.disk_bytes),
            standing: wire::Standing {
                layer_ids: answer.standing.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        })
    }

    async fn pack_layers(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PackLayersRequest>,
    ) -> ServiceResult<wire::PackLayersResponse> {
        let layers = request.to_owned_message().layers;
        if let [only] = layers.as_slice()
            && let Some(packed) = self.machine.pack_machine(&layer_id(&only.id)?).await.map_err(OrderError::from)?
        {
            let (digest, size_bytes) = (packed.digest, packed.size_bytes);
            return Response::ok(wire::PackLayersResponse { digest, size_bytes, ..Default::default() });
        }
        let mut leases = Vec::new();
        for layer in layers {
            let layer = Layer { id: layer_id(&layer.id)?, digest: layer.digest };
            let lease = self.machine.layer(&layer).await.map_err(OrderError::from)?;
            if lease.file.is_none() && vm::disk::of_layer(&lease.path).is_some() {
                let text = format!("layers: {} is the disk of a virtual machine, which goes into no image", layer.id);
                return Err(ConnectError::failed_precondition(text));
            }
            leases.push(lease);
        }
        if leases.is_empty() {
            return Err(ConnectError::invalid_argument("layers: must be at least one"));
        }
        let paths = leases.iter().map(|lease| lease.path.clone()).collect();
        let packed = self.images.pack(paths).await.map_err(|error| ConnectError::internal(error.to_string()))?;
        Response::ok(wire::PackLayersResponse {
            digest: packed.digest,
            size_bytes: packed.size_bytes,
            ..Default::default()
        })
    }

    async fn list_layers(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::ListLayersRequest>,
    ) -> ServiceResult<wire::ListLayersResponse> {
        let pool = self.pool.clone();
        let listed = tokio::task::spawn_blocking(move || pool.list_layers()).await;
        let listed = listed.map_err(|_| ConnectError::internal("listing layers: the task was lost"))?;
        let layers = listed.map_err(|error| ConnectError::internal(error.to_string()))?;
        let layer_ids = layers.iter().map(ToString::to_string).collect();
        Response::ok(wire::ListLayersResponse { layer_ids, ..Default::default() })
    }

    async fn set_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetNetworkRequest>,
    ) -> ServiceResult<wire::SetNetworkResponse> {
        let request = request.to_owned_message();
        let policy = spec::policy(request.network.into_option().unwrap_or_default())?;
        self.keeper.set_policy(&id(&request.id)?, request.generation, policy).await?;
        Response::ok(wire::SetNetworkResponse::default())
    }

    async fn delete_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DeleteImageRequest>,
    ) -> ServiceResult<wire::DeleteImageResponse> {
        if let Ok(layer) = request.digest.parse::<LayerId>() {
            return match self.keeper.delete_layer(&layer).await {
                Ok(()) => Response::ok(wire::DeleteImageResponse::default()),
                Err(error @ OrderError::Busy { .. }) => Err(ConnectError::failed_precondition(error.to_string())),
                Err(error) => Err(error.into()),
            };
        }
        if let Ok(volume) = request.digest.parse::<VolumeId>() {
            if self.keeper.has_volume(&volume) {
                return Err(ConnectError::failed_precondition(format!("a sandbox has volume {volume}")));
            }
            let pool = self.pool.clone();
            let deleted = tokio::task::spawn_blocking(move || pool.delete_shared_volume(&volume)).await;
            let deleted = deleted.map_err(|_| ConnectError::internal("deleting a volume: the task was lost"))?;
            deleted.map_err(|error| ConnectError::internal(error.to_string()))?;
            return Response::ok(wire::DeleteImageResponse::default());
        }
        match self.keeper.delete_imported(request.digest).await {
            Ok(()) => {}
            Err(error @ OrderError::Busy { .. }) => return Err(ConnectError::failed_precondition(error.to_string())),
            Err(error) => return Err(error.into()),
        }
        match self.images.delete(request.digest).await {
            Ok(()) => Response::ok(wire::DeleteImageResponse::default()),
            Err(error @ ImageError::InUse(_)) => Err(ConnectError::failed_precondition(error.to_string())),
            Err(error @ ImageError::NotADigest(_)) => Err(ConnectError::invalid_argument(error.to_string())),
            Err(error) => Err(ConnectError::internal(error.to_string())),
        }
    }

    async fn get_status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::GetStatusRequest>,
    ) -> ServiceResult<wire::GetStatusResponse> {
        let not_ready = self.readiness.problem();
        Response::ok(wire::GetStatusResponse {
            version: self.version.clone(),
            boot_id: self.boot_id.clone(),
            ready: not_ready.is_none(),
            not_ready_reason: not_ready.unwrap_or_default(),
            sandboxes: u32::try_from(self.keeper.list().len()).unwrap_or(u32::MAX),
            cached_images: self.images.list().unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn terminate(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::TerminateRequest>,
    ) -> ServiceResult<wire::TerminateResponse> {
        tracing::warn!(reason = request.reason, "control has deleted this host: destroying its sandboxes");
        self.terminate.cancel();
        Response::ok(wire::TerminateResponse::default())
    }
}

fn metrics(keeper: &Keeper, history: &History, ids: &[String]) -> Result<Vec<wire::SandboxMetrics>, ConnectError> {
    let ids: Vec<SandboxId> = if ids.is_empty() {
        keeper.list().iter().map(|view| view.id.clone()).collect()
    } else {
        ids.iter().map(|text| id(text)).collect::<Result<_, _>>()?
    };
    let now = Utc::now().timestamp_millis();
    let one = |(id, measured): (SandboxId, Measured)| wire::SandboxMetrics {
        id: id.to_string(),
        timestamp_ms: now,
        cpu_usec: measured.used.cpu_usec,
        memory_bytes: measured.used.memory_bytes,
        disk_bytes: measured.used.disk_bytes,
        net_rx_bytes: measured.used.received_bytes,
        net_tx_bytes: measured.used.sent_bytes,
        processes: measured.used.processes,
        cpu_pct: f64::from(measured.cpu_pct),
        ..Default::default()
    };
    // One that is gone by now has no metrics; that is no error of the others.
    Ok(history.now(&ids).into_iter().map(one).collect())
}
