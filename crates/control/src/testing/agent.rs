//! One machine of the fake fleet: its sandboxes are entries in a map, and it fails when it is told to.
#![allow(refining_impl_trait, reason = "naming the answers' types is what the service traits are used like")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::hosts::PROXY_ERROR_HEADER;
use atoll_rpc::atoll::guest::v1 as guest;
use atoll_rpc::atoll::host::v1::*;
use atoll_rpc::connectrpc::{
    Chain, ConnectError, ConnectRpcService, RequestContext, Response, ServiceRequest, ServiceResult,
};
use atoll_rpc::process::ProcessServer;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, any_service, get};
use futures::StreamExt;

use super::process::Ran;

#[derive(Clone, Default)]
pub struct FakeAgent(Arc<Mutex<State>>);

/// What every guest agent of the host says, whatever it is asked.
#[derive(Debug, Clone)]
pub enum Lie {
    /// An error in these words.
    Error(String),
    /// An error that has no end.
    EndlessError,
    /// A success that has no end.
    EndlessAnswer,
    /// This, as a success.
    Answer(&'static [u8]),
}

impl Lie {
    fn told(self) -> axum::response::Response {
        let endless = || {
            Body::from_stream(futures::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[b'"'; 64 << 10]))
            }))
        };
        let proto = [("content-type", "application/proto")];
        match self {
            Self::Error(message) => {
                let error = serde_json::json!({ "code": "internal", "message": message }).to_string();
                (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "application/json")], error).into_response()
            }
            Self::EndlessError => {
                (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "application/json")], endless()).into_response()
            }
            Self::EndlessAnswer => (proto, endless()).into_response(),
            Self::Answer(bytes) => (proto, bytes).into_response(),
        }
    }
}

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, Sandbox>,
    specs: HashMap<String, SandboxSpec>,
    unreachable: bool,
    /// So many creates fail.
    failing_creates: usize,
    /// Creates take this long.
    create_takes: Duration,
    failing_pauses: usize,
    failing_policies: usize,
    /// So many requests into sandboxes find them paused.
    paused_for: usize,
    /// Pauses of these are never answered.
    hanging_pauses: Vec<SandboxId>,
    /// What programs end with.
    exit_code: i32,
    full: bool,
    calls: Vec<String>,
    layers: std::collections::BTreeSet<String>,
    images: HashMap<String, Bytes>,
    lie: Option<Lie>,
    /// Files of all sandboxes.
    files: HashMap<String, Bytes>,
    ran: Vec<Ran>,
    /// What its machines run on: it keeps their memory when asked to.
    vm_version: Option<String>,
    /// Layers that it can't pack.
    unpackable: std::collections::BTreeSet<String>,
    /// It doesn't answer to packs while this is locked.
    packing: Arc<tokio::sync::Mutex<()>>,
}

impl FakeAgent {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// It runs machines from now on, on this, and keeps their memory.
    pub fn run_machines_on(&self, vm_version: &str) {
        self.state().vm_version = Some(vm_version.to_owned());
    }

    pub fn vm_version(&self) -> Option<String> {
        self.state().vm_version.clone()
    }

    pub fn fail_creates(&self, count: usize) {
        self.state().failing_creates = count;
    }

    /// It refuses creates from now on, for want of room.
    pub fn fill(&self) {
        self.state().full = true;
    }

    pub fn fail_pauses(&self, count: usize) {
        self.state().failing_pauses = count;
    }

    /// The next requests into its sandboxes find them paused.
    pub fn refuse_as_paused(&self, count: usize) {
        self.state().paused_for = count;
    }

    pub fn fail_policies(&self, count: usize) {
        self.state().failing_policies = count;
    }

    pub fn hang_pauses_of(&self, id: &SandboxId) {
        self.state().hanging_pauses.push(id.clone());
    }

    pub fn end_programs_with(&self, exit_code: i32) {
        self.state().exit_code = exit_code;
    }

    pub fn let_guests_lie(&self, lie: Lie) {
        self.state().lie = Some(lie);
    }

    pub fn take_for_creates(&self, time: Duration) {
        self.state().create_takes = time;
    }

    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    pub fn is_unreachable(&self) -> bool {
        self.state().unreachable
    }

    /// What it was asked, in order: `create`, `destroy`, ...
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub fn state_of(&self, id: &SandboxId) -> Option<SandboxState> {
        self.state().sandboxes.get(id.as_str()).and_then(|sandbox| sandbox.state.as_known())
    }

    pub fn spec_of(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.state().specs.get(id.as_str()).cloned()
    }

    fn take_policy(&self, id: &str, network: Option<NetworkPolicy>, generation: u64) -> Result<(), ConnectError> {
        let mut state = self.state();
        if state.failing_policies > 0 {
            state.failing_policies -= 1;
            return Err(ConnectError::internal("told to fail"));
        }
        let spec = state.specs.get_mut(id).ok_or_else(|| ConnectError::not_found("no such sandbox"))?;
        if generation < spec.network_generation {
            return Err(ConnectError::aborted("an older policy"));
        }
        spec.network = network.into();
        spec.network_generation = generation;
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.network_generation = generation;
        }
        Ok(())
    }

    fn spec_of_id(&self, id: &str) -> Option<SandboxSpec> {
        self.state().specs.get(id).cloned()
    }

    /// What was run in its sandboxes, in order.
    pub fn programs(&self) -> Vec<Ran> {
        self.state().ran.clone()
    }

    pub(super) fn ran(&self, program: Ran) {
        self.state().ran.push(program);
    }

    /// It can't pack this layer, as one of too many files.
    pub fn refuse_to_pack(&self, layer: &str) {
        self.state().unpackable.insert(layer.to_owned());
    }

    /// Packs wait for as long as the guard lives.
    pub async fn hold_packs(&self) -> tokio::sync::OwnedMutexGuard<()> {
        let packing = self.state().packing.clone();
        packing.lock_owned().await
    }

    /// It has lost what it packed.
    pub fn lose_images(&self) {
        self.state().images.clear();
    }

    pub fn layers(&self) -> Vec<String> {
        self.state().layers.iter().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.state().sandboxes.len()
    }

    fn note(&self, call: &str) {
        self.state().calls.push(call.to_owned());
    }

    pub fn router(&self) -> Router {
        let host = ConnectRpcService::new(HostServiceServer::new(self.clone()));
        let guest = ConnectRpcService::new(Chain(
            guest::GuestServiceServer::new(self.clone()),
            ProcessServer::new(self.clone()),
        ));
        let (writer, reader, packer, liar) = (self.clone(), self.clone(), self.clone(), self.clone());
        let image = move |axum::extract::Path(digest): axum::extract::Path<String>| {
            let image = packer.state().images.get(&digest).cloned();
            async move { image.ok_or(StatusCode::NOT_FOUND) }
        };
        let bare = any(|uri: axum::http::Uri, headers: HeaderMap| async move { Self::port(&uri, &headers) });
        Router::new()
            .route("/atoll.host.v1.HostService/{method}", any_service(host))
            .route("/images/{digest}", get(image))
            .route("/volumes/{id}/{kind}", any(Self::volume))
            .route(
                "/proxy/{id}/guest/files",
                get(move |headers, query| reader.read(headers, query))
                    .post(move |query, body| writer.write(query, body)),
            )
            .route("/proxy/{id}/{port}/{*rest}", bare.clone())
            .route("/proxy/{id}/{port}/", bare)
            .nest_service("/proxy/{id}/guest", guest)
            .layer(axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
                let lie = liar.state().lie.clone().filter(|_| request.uri().path().contains("/guest/"));
                let mut state = liar.state();
                let paused = request.uri().path().starts_with("/proxy/") && state.paused_for > 0;
                state.paused_for -= usize::from(paused);
                drop(state);
                async move {
                    if paused {
                        let _taken = axum::body::to_bytes(request.into_body(), 8 << 20).await;
                        return (StatusCode::CONFLICT, [(PROXY_ERROR_HEADER, "paused")]).into_response();
                    }
                    match lie {
                        Some(lie) => lie.told(),
                        None => next.run(request).await,
                    }
                }
            }))
    }

    /// What was asked about a volume, as it came; but that what has `none` in its path is not there.
    async fn volume(
        method: axum::http::Method,
        uri: axum::http::Uri,
        body: axum::body::Bytes,
    ) -> axum::response::Response {
        let marker = [(atoll_model::api::hosts::VOLUME_FILES_HEADER, "1")];
        let asked = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        if asked.contains("unmarked") {
            return StatusCode::NOT_FOUND.into_response();
        }
        if asked.contains("none") {
            let refusal = serde_json::json!({ "message": "path `/none` does not exist" }).to_string();
            return (StatusCode::NOT_FOUND, marker, refusal).into_response();
        }
        let body = String::from_utf8_lossy(&body);
        let seen = serde_json::json!({ "method": method.as_str(), "asked": asked, "body": body }).to_string();
        (marker, seen).into_response()
    }

    async fn write(self, Query(query): Query<HashMap<String, String>>, body: Body) -> axum::response::Response {
        let mut bytes = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) if bytes.len() + chunk.len() <= 1 << 20 => bytes.extend_from_slice(&chunk),
                Ok(_) => {
                    let refusal = r#"{"code":507,"message":"no space left"}"#;
                    return (StatusCode::INSUFFICIENT_STORAGE, refusal).into_response();
                }
                Err(_) => return StatusCode::BAD_REQUEST.into_response(),
            }
        }
        let path = query["path"].clone();
        self.state().files.insert(path.clone(), bytes.into());
        format!(r#"[{{"path":"{path}","name":"x","type":"file"}}]"#).into_response()
    }

    /// A program that listens on any port but 1, and says what it was asked.
    fn port(uri: &axum::http::Uri, headers: &HeaderMap) -> axum::response::Response {
        let mut pieces = uri.path().splitn(5, '/').skip(3);
        let (port, path) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
        if port == "1" {
            return (StatusCode::BAD_GATEWAY, [(PROXY_ERROR_HEADER, "port_closed")]).into_response();
        }
        let seen: serde_json::Map<_, _> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let body = serde_json::json!({ "port": port, "path": format!("/{path}{query}"), "headers": seen }).to_string();
        let mut answer = body.into_response();
        for (name, value) in [
            ("set-cookie", "own=1"),
            ("set-cookie", "all=1; Domain=sbx.test"),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
        ] {
            answer.headers_mut().append(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn read(self, headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> axum::response::Response {
        let trusted = headers.contains_key(crate::fleet::TRUSTED_HEADER);
        self.note(if trusted { "guest" } else { "guest untrusted" });
        match self.state().files.get(&query["path"]) {
            Some(bytes) => bytes.clone().into_response(),
            None => (StatusCode::NOT_FOUND, r#"{"code":404,"message":"no such file"}"#).into_response(),
        }
    }

    fn move_to(&self, id: &str, generation: u64, state: SandboxState) -> Result<Sandbox, ConnectError> {
        let mut this = self.state();
        let sandbox = this.sandboxes.get_mut(id).ok_or_else(|| ConnectError::not_found("no such sandbox"))?;
        if generation < sandbox.generation {
            return Err(ConnectError::failed_precondition("an older generation"));
        }
        sandbox.generation = generation;
        sandbox.state = state.into();
        Ok(sandbox.clone())
    }
}

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
        state.specs.insert(request.id.clone(), request.spec.into_option().unwrap_or_default());
        state.sandboxes.insert(request.id, sandbox.clone());
        Response::ok(CreateSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
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
        Response::ok(PauseSandboxResponse { sandbox: sandbox.into(), kept: "memory".to_owned(), ..Default::default() })
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
        let metrics = ids.into_iter().map(|id| SandboxMetrics { id, memory_bytes: 1, ..Default::default() }).collect();
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

impl guest::GuestService for FakeAgent {
    /// Answers with its own command line; `sleep` runs into its timeout, `yes` writes too much, `flood` a MiB.
    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, guest::ExecRequest>,
    ) -> ServiceResult<guest::ExecResponse> {
        self.note("exec");
        let request = request.to_owned_message();
        let stdout = if request.cmd == "flood" {
            vec![b'x'; 1 << 20]
        } else {
            format!("{} {}", request.cmd, request.args.join(" ")).into_bytes()
        };
        Response::ok(guest::ExecResponse {
            stdout,
            timed_out: request.cmd == "sleep",
            truncated: request.cmd == "yes",
            exit_code: self.state().exit_code,
            pid: 7,
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::SignalRequest>,
    ) -> ServiceResult<guest::SignalResponse> {
        self.note("signal");
        Response::ok(guest::SignalResponse::default())
    }

    async fn trust(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::TrustRequest>,
    ) -> ServiceResult<guest::TrustResponse> {
        Response::ok(guest::TrustResponse::default())
    }

    async fn configure(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::ConfigureRequest>,
    ) -> ServiceResult<guest::ConfigureResponse> {
        Response::ok(guest::ConfigureResponse::default())
    }

    async fn logs(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::LogsRequest>,
    ) -> ServiceResult<guest::LogsResponse> {
        let line = guest::LogLine { sequence: 1, message: "hello".to_owned(), ..Default::default() };
        Response::ok(guest::LogsResponse { lines: vec![line], ..Default::default() })
    }

    async fn quiesce(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::QuiesceRequest>,
    ) -> ServiceResult<guest::QuiesceResponse> {
        Response::ok(guest::QuiesceResponse::default())
    }
}
