//! What control asks of the fake machine.
#![allow(refining_impl_trait, reason = "naming the answers' types is what the service traits are used like")]

use atoll_rpc::atoll::host::v1::*;
use atoll_rpc::connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use axum::body::Bytes;

use super::FakeAgent;

impl HostService for FakeAgent {
    async fn create_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<CreateSandboxResponse> {
        self.note("create");
        let request = request.to_owned_message();
        let takes = self.state().create_takes;
        tokio::time::sleep(takes).await;
        let mut state = self.state();
        if state.full {
            return Err(ConnectError::resource_exhausted("this host is full"));
        }
        if state.failing_creates > 0 {
            state.failing_creates -= 1;
            return Err(ConnectError::internal("told to fail"));
        }
        let at_rest = !request.at_rest.is_empty();
        let running = [SandboxState::SANDBOX_STATE_RUNNING, SandboxState::SANDBOX_STATE_PAUSED][usize::from(at_rest)];
        let sandbox = Sandbox {
            id: request.id.clone(),
            generation: request.generation,
            state: running.into(),
            reason: request.at_rest.clone(),
            network_generation: request.spec.as_option().map_or(0, |spec| spec.network_generation),
            ..Default::default()
        };
        let spec = request.spec.into_option().unwrap_or_default();
        let goes_on = state.vm_version.is_some() && !spec.layers.is_empty() && spec.start_from != "files";
        let kept = if goes_on { "memory" } else { "files" }.to_owned();
        state.specs.insert(request.id.clone(), spec);
        state.sandboxes.insert(request.id, sandbox.clone());
        Response::ok(CreateSandboxResponse { sandbox: sandbox.into(), kept, ..Default::default() })
    }

    async fn destroy_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DestroySandboxRequest>,
    ) -> ServiceResult<DestroySandboxResponse> {
        self.note("destroy");
        self.state().sandboxes.remove(&request.to_owned_message().id);
        Response::ok(DestroySandboxResponse::default())
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<PauseSandboxResponse> {
        self.note("pause");
        let request = request.to_owned_message();
        if self.state().hanging_pauses.iter().any(|id| id.as_str() == request.id) {
            std::future::pending::<()>().await;
        }
        if self.state().failing_pauses > 0 {
            self.state().failing_pauses -= 1;
            return Err(ConnectError::internal("told to fail"));
        }
        let sandbox = self.move_to(&request.id, request.generation, SandboxState::SANDBOX_STATE_PAUSED)?;
        let freed_bytes = self.state().freed_by_pauses;
        Response::ok(PauseSandboxResponse {
            sandbox: sandbox.into(),
            kept: "memory".to_owned(),
            freed_bytes,
            ..Default::default()
        })
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<ResumeSandboxResponse> {
        self.note("resume");
        let request = request.to_owned_message();
        if request.network.is_set() {
            self.take_policy(&request.id, request.network.as_option().cloned(), request.network_generation)?;
        }
        let sandbox = self.move_to(&request.id, request.generation, SandboxState::SANDBOX_STATE_RUNNING)?;
        Response::ok(ResumeSandboxResponse { sandbox: sandbox.into(), kept: "memory".to_owned(), ..Default::default() })
    }

    async fn get_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, GetSandboxRequest>,
    ) -> ServiceResult<GetSandboxResponse> {
        let id = request.to_owned_message().id;
        let sandbox = self.state().sandboxes.get(&id).cloned().ok_or_else(|| ConnectError::not_found("none"))?;
        Response::ok(GetSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<ListSandboxesResponse> {
        let sandboxes = self.state().sandboxes.values().cloned().collect();
        Response::ok(ListSandboxesResponse { sandboxes, inventory_complete: true, ..Default::default() })
    }

    async fn acknowledge(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, AcknowledgeRequest>,
    ) -> ServiceResult<AcknowledgeResponse> {
        Response::ok(AcknowledgeResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SandboxMetricsRequest>,
    ) -> ServiceResult<SandboxMetricsResponse> {
        let ids = request.to_owned_message().ids;
        let metric = |id| SandboxMetrics {
            id,
            cpu_usec: 2_500_000,
            cpu_pct: 50.0,
            memory_bytes: 1,
            disk_bytes: 2,
            net_rx_bytes: 3,
            net_tx_bytes: 4,
            processes: 5,
            ..Default::default()
        };
        let unasked = self.state().unasked.clone();
        let metrics = ids.into_iter().map(metric).chain(unasked).collect();
        Response::ok(SandboxMetricsResponse { metrics, ..Default::default() })
    }

    /// One point per minute of what is asked for.
    async fn sandbox_history(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SandboxHistoryRequest>,
    ) -> ServiceResult<SandboxHistoryResponse> {
        let request = request.to_owned_message();
        if !self.state().sandboxes.contains_key(&request.id) {
            return Err(ConnectError::not_found("no such sandbox"));
        }
        let until = request.until.min(request.from.saturating_add(3600));
        let points = (request.from..=until).step_by(60).map(|at| HistoryPoint { at, ..Default::default() }).collect();
        Response::ok(SandboxHistoryResponse { points, step_sec: 60, ..Default::default() })
    }

    async fn read_environment(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, ReadEnvironmentRequest>,
    ) -> ServiceResult<ReadEnvironmentResponse> {
        self.note("environment");
        let id = request.to_owned_message().id;
        let spec = self.spec_of_id(&id).ok_or_else(|| ConnectError::not_found("no such sandbox"))?;
        Response::ok(ReadEnvironmentResponse { env: spec.env, ..Default::default() })
    }

    async fn snapshot_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SnapshotSandboxRequest>,
    ) -> ServiceResult<SnapshotSandboxResponse> {
        self.note("snapshot");
        let request = request.to_owned_message();
        let mut state = self.state();
        if !state.sandboxes.contains_key(&request.id) {
            return Err(ConnectError::not_found("no such sandbox"));
        }
        state.layers.insert(request.layer_id);
        let memory = request.memory && state.vm_version.is_some();
        Response::ok(SnapshotSandboxResponse {
            kept: if memory { "memory" } else { "files" }.to_owned(),
            size_bytes: 4096,
            vm_version: state.vm_version.clone().unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn pack_layers(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, PackLayersRequest>,
    ) -> ServiceResult<PackLayersResponse> {
        self.note("pack");
        let layers = request.to_owned_message().layers;
        let ids: Vec<_> = layers.iter().map(|layer| layer.id.clone()).collect();
        let packing = self.state().packing.clone();
        drop(packing.lock_owned().await);
        if ids.iter().any(|id| self.state().unpackable.contains(id)) {
            return Err(ConnectError::internal("it holds more than 1000000 files"));
        }
        let image = Bytes::from(format!("image of {}", ids.join(" ")));
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&image));
        let size_bytes = image.len() as u64;
        self.state().images.insert(digest.clone(), image);
        Response::ok(PackLayersResponse { digest, size_bytes, ..Default::default() })
    }

    async fn list_layers(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ListLayersRequest>,
    ) -> ServiceResult<ListLayersResponse> {
        let layer_ids = self.state().layers.iter().cloned().collect();
        Response::ok(ListLayersResponse { layer_ids, ..Default::default() })
    }

    async fn set_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SetNetworkRequest>,
    ) -> ServiceResult<SetNetworkResponse> {
        self.note("network");
        let request = request.to_owned_message();
        self.take_policy(&request.id, request.network.into_option(), request.generation)?;
        Response::ok(SetNetworkResponse::default())
    }

    async fn delete_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DeleteImageRequest>,
    ) -> ServiceResult<DeleteImageResponse> {
        let what = request.to_owned_message().digest;
        self.note(&format!("delete {what}"));
        let mut state = self.state();
        state.layers.remove(&what);
        state.images.remove(&what);
        drop(state);
        Response::ok(DeleteImageResponse::default())
    }

    async fn get_status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, GetStatusRequest>,
    ) -> ServiceResult<GetStatusResponse> {
        Response::ok(GetStatusResponse { ready: true, ..Default::default() })
    }

    async fn terminate(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, TerminateRequest>,
    ) -> ServiceResult<TerminateResponse> {
        Response::ok(TerminateResponse::default())
    }
}
