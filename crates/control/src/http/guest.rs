//! A sandbox that a request goes into: the clients of its guest agent, and the guard that keeps it active.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{HostId, SandboxId};
use atoll_rpc::connectrpc::ConnectError;
use atoll_rpc::connectrpc::client::CallOptions;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::convert::guest_error;
use super::error::{ApiError, ApiResult};
use super::places::AnswerMeter;
use crate::app::App;
use crate::fleet::{Fleet, FleetError, GuestClient, GuestFiles, GuestProcesses};
use crate::sandboxes::{OpenGuard, Owner, Sandboxes};

/// Deadline of a stream that has none: the longest that the protocol can say (ten digits of milliseconds).
const ENDLESS: Duration = Duration::from_millis(9_999_999_999);
/// Deadline of small calls.
const CALL: Duration = Duration::from_secs(30);
/// Of one message of a stream.
const MAX_EVENT: usize = 4 << 20;

/// A running sandbox, reached through its host. Active for as long as this lives.
pub struct Guest {
    pub id: SandboxId,
    pub host: HostId,
    fleet: Fleet,
    _active: OpenGuard,
}

impl Guest {
    /// Finds the sandbox, wakes it if it wakes by itself, and keeps it active. `attempted` completes "can't ...".
    pub async fn of(app: &App, owner: &Owner, id: SandboxId, attempted: &'static str) -> ApiResult<Self> {
        let record = app.sandboxes.usable(&owner.team, &id, attempted).await?;
        let host = Sandboxes::host_of(&record)?.clone();
        let active = app.sandboxes.activity().open(&id);
        Ok(Self { id, host, fleet: app.sandboxes.fleet().clone(), _active: active })
    }

    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    #[must_use]
    pub fn service(&self) -> GuestClient {
        self.fleet.guest_client(&self.host, &self.id)
    }

    /// The same for an answer that may be large.
    #[must_use]
    pub fn metered_service(&self, meter: &Arc<AnswerMeter>) -> GuestClient {
        self.fleet.metered_guest_client(&self.host, &self.id, Arc::clone(meter) as _)
    }

    #[must_use]
    pub fn metered_files(&self, meter: &Arc<AnswerMeter>) -> GuestFiles {
        self.fleet.metered_guest_files(&self.host, &self.id, Arc::clone(meter) as _)
    }

    #[must_use]
    pub fn processes(&self) -> GuestProcesses {
        self.fleet.guest_processes(&self.host, &self.id)
    }

    #[must_use]
    pub fn files(&self) -> GuestFiles {
        self.fleet.guest_files(&self.host, &self.id)
    }

    /// Whether a call failed because the sandbox stands still, and nothing of it has reached the sandbox.
    #[must_use]
    pub fn was_paused(&self, error: &ConnectError) -> bool {
        matches!(FleetError::from_rpc(&self.host, "reach a sandbox", error.clone()), FleetError::Paused { .. })
    }

    /// What a failed call is told to the client as.
    #[must_use]
    pub fn error(&self, attempted: &'static str, field: Option<&'static str>, error: ConnectError) -> ApiError {
        guest_error(&self.host, attempted, field, error)
    }
}

/// Options of a small call for `user` (the guest's default user when absent).
#[must_use]
pub fn call(user: Option<&str>) -> CallOptions {
    as_user(CallOptions::default().with_timeout(CALL), user)
}

/// The same for work with files, with the user's own rights: what another's program may not do, nobody does in its name.
#[must_use]
pub fn as_themselves(user: Option<&str>) -> CallOptions {
    call(user).with_header("x-atoll-rights", "user")
}

/// Options of a stream.
#[must_use]
pub fn stream(user: Option<&str>) -> CallOptions {
    as_user(CallOptions::default().with_timeout(ENDLESS).with_max_message_size(MAX_EVENT), user)
}

/// The guest protocol takes the user's name as that of HTTP basic authentication, with an empty password.
fn as_user(options: CallOptions, user: Option<&str>) -> CallOptions {
    match user {
        Some(user) => options.with_header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{user}:")))),
        None => options,
    }
}
