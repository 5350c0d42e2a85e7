//! Sandboxes: create, look, pause and resume, run programs, read logs, destroy.

use std::time::Duration;

use atoll_model::api::Page;
use atoll_model::api::sandboxes::{
    BackgroundExecResponse, CreateSandboxRequest, Encoding, ExecRequest, ExecResponse, Link, LinkRequest, LogLine,
    Metrics, Process, Sandbox, SandboxEvent, TimeoutRequest,
};
use atoll_model::{SandboxId, SandboxStatus};
use base64::Engine;
use http::Method;

use crate::transport::{DEADLINE, encode, query};
use crate::{Client, Error};

/// A create waits for a host, and for a template that the host may have to fetch first.
const CREATE_DEADLINE: Duration = Duration::from_secs(300);
/// Seconds that the server gives a program when the request names none.
const DEFAULT_EXEC_SECONDS: u64 = 30;

/// What to list. Everything is optional.
#[derive(Debug, Clone, Default)]
pub struct ListSandboxes {
    /// Empty: all but stopped ones.
    pub status: Vec<SandboxStatus>,
    /// Labels that must all match.
    pub metadata: Vec<(String, String)>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// A program with its arguments, everything else as the server has it by default.
#[must_use]
pub fn command<A: Into<String>>(cmd: &str, args: impl IntoIterator<Item = A>) -> ExecRequest {
    ExecRequest { cmd: cmd.to_owned(), args: args.into_iter().map(Into::into).collect(), ..ExecRequest::default() }
}

fn of(id: &SandboxId, rest: &str) -> String {
    format!("/v1/sandboxes/{id}{rest}")
}

impl Client {
    /// Ends with a sandbox that runs and answers.
    pub async fn create_sandbox(&self, request: &CreateSandboxRequest) -> Result<Sandbox, Error> {
        self.json(Method::POST, "/v1/sandboxes", Some(request), CREATE_DEADLINE).await
    }

    pub async fn list_sandboxes(&self, what: &ListSandboxes) -> Result<Page<Sandbox>, Error> {
        let statuses: Vec<_> = what.status.iter().map(|status| status.as_str()).collect();
        let labels: Vec<_> =
            what.metadata.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let query = query(&[
            ("status", (!statuses.is_empty()).then(|| statuses.join(","))),
            ("metadata", (!labels.is_empty()).then(|| labels.join("&"))),
            ("limit", what.limit.map(|limit| limit.to_string())),
            ("cursor", what.cursor.clone()),
        ]);
        self.get(&format!("/v1/sandboxes{query}")).await
    }

    pub async fn get_sandbox(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        self.get(&of(id, "")).await
    }

    /// Success also when it has been destroyed before.
    pub async fn destroy_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.json(Method::DELETE, &of(id, ""), None::<&()>, DEADLINE).await
    }

    pub async fn pause_sandbox(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        self.json(Method::POST, &of(id, "/pause"), None::<&()>, DEADLINE).await
    }

    pub async fn resume_sandbox(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        self.json(Method::POST, &of(id, "/resume"), None::<&()>, DEADLINE).await
    }

    /// Restarts the idle clock.
    pub async fn ping_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.json(Method::POST, &of(id, "/ping"), None::<&()>, DEADLINE).await
    }

    pub async fn set_timeout(&self, id: &SandboxId, request: &TimeoutRequest) -> Result<Sandbox, Error> {
        self.post(&of(id, "/timeout"), request).await
    }

    /// Runs a program to its end. Not for `background`: see [`Client::exec_background`].
    pub async fn exec(&self, id: &SandboxId, request: &ExecRequest) -> Result<ExecResponse, Error> {
        let seconds = request.timeout_sec.unwrap_or(DEFAULT_EXEC_SECONDS);
        let deadline = Duration::from_secs(seconds) + DEADLINE;
        self.json(Method::POST, &of(id, "/exec"), Some(request), deadline).await
    }

    /// Starts a program and answers at once.
    pub async fn exec_background(
        &self,
        id: &SandboxId,
        request: &ExecRequest,
    ) -> Result<BackgroundExecResponse, Error> {
        let request = ExecRequest { background: true, ..request.clone() };
        self.post(&of(id, "/exec"), &request).await
    }

    /// A link that opens a port of a sandbox to whoever has it.
    pub async fn link(&self, id: &SandboxId, request: &LinkRequest) -> Result<Link, Error> {
        self.post(&format!("/v1/sandboxes/{id}/links"), request).await
    }

    pub async fn list_processes(&self, id: &SandboxId) -> Result<Page<Process>, Error> {
        self.get(&of(id, "/processes")).await
    }

    /// Sends a signal (SIGKILL when none is named) to a process, by pid or tag.
    pub async fn signal_process(&self, id: &SandboxId, process: &str, signal: Option<&str>) -> Result<(), Error> {
        let query = query(&[("signal", signal.map(str::to_owned))]);
        let path = of(id, &format!("/processes/{}{query}", encode(process)));
        self.json(Method::DELETE, &path, None::<&()>, DEADLINE).await
    }

    /// A page of what the guest agent logged, oldest first, after `cursor`.
    pub async fn sandbox_logs(&self, id: &SandboxId, cursor: Option<&str>) -> Result<Page<LogLine>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("cursor", cursor.map(str::to_owned))]);
        self.get(&of(id, &format!("/logs{query}"))).await
    }

    /// What it used, as far back as `range` says (`5m` to `30d`), or uses at this moment.
    pub async fn sandbox_metrics(&self, id: &SandboxId, range: Option<&str>) -> Result<Metrics, Error> {
        let query = query(&[("range", range.map(str::to_owned))]);
        self.get(&of(id, &format!("/metrics{query}"))).await
    }

    pub async fn sandbox_events(&self, id: &SandboxId) -> Result<Page<SandboxEvent>, Error> {
        self.get(&of(id, "/events")).await
    }
}

/// The bytes of an answer's `stdout` or `stderr`.
pub(crate) fn bytes_of(text: &str, encoding: Encoding) -> Result<Vec<u8>, Error> {
    match encoding {
        Encoding::Utf8 => Ok(text.as_bytes().to_vec()),
        Encoding::Base64 => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| Error::NotAtoll { what: "output".to_owned(), cause: error.to_string() }),
    }
}
