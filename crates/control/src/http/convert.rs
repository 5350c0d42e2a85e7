//! From the typed errors of the floors below to answers: one variant, one code.

use atoll_model::ErrorCode;
use atoll_rpc::atoll::guest::v1 as wire;
use atoll_rpc::buffa::Message;
use atoll_rpc::connectrpc::{ConnectError, ErrorCode as RpcCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;
use std::time::Duration;

use super::error::ApiError;
use crate::accounts::{
    DeviceError, HashError, InvitationError, LoginError, MAX_INVITATIONS, PasswordError, ResetError, SessionError,
    SetupError, SignupError,
};
use crate::fleet::FleetError;
use crate::layers::LayerError;
use crate::quotas::QuotaError;
use crate::sandboxes::SandboxError;
use crate::secrets::SecretError;
use crate::signing::SigningError;
use crate::templates::shipped::ShippedError;
use atoll_model::HostId;

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotFound => Self::not_found("sandbox"),
            SandboxError::NoTemplate { name } => {
                Self::new(ErrorCode::NotFound, format!("there is no template `{name}`")).with_field("template")
            }
            SandboxError::NoBase => Self::new(ErrorCode::NotReady, error.to_string())
                .with_field("template")
                .with_retry_after(Duration::from_secs(10)),
            SandboxError::NotBuilt { name } => Self::conflict(format!(
                "no build of the template `{name}` has come to a good end yet; its builds' logs say how far they are"
            ))
            .with_field("template"),
            SandboxError::WrongDriver { .. } => Self::conflict(error.to_string()).with_field("driver"),
            SandboxError::TooSmall => Self::invalid("memory_mb", error.to_string()),
            SandboxError::NoMemory(message) => Self::conflict(message).with_field("start_from"),
            SandboxError::Shipped(ShippedError::Db(error)) => error.into(),
            SandboxError::Shipped(error) => Self::new(ErrorCode::Overloaded, error.to_string())
                .with_field("template")
                .with_retry_after(Duration::from_secs(10)),
            SandboxError::InvalidState { attempted, status } => {
                Self::new(ErrorCode::InvalidState, format!("can't {attempted} a sandbox that is {status}"))
                    .with_detail("status", status.as_str())
            }
            SandboxError::Changed { attempted } => Self::new(
                ErrorCode::Conflict,
                format!("the sandbox changed while the request to {attempted} it was under way"),
            ),
            SandboxError::NoHost(none) if none.unknown_vm_version().is_some() => Self::conflict(none.to_string())
                .with_field("template")
                .with_detail("hosts", none.considered)
                .with_detail("vm_version", none.vm_version),
            SandboxError::NoHost(none) => {
                let failed: serde_json::Map<_, _> =
                    none.failed.iter().map(|(what, count)| (what.as_str().to_owned(), json!(count))).collect();
                Self::new(ErrorCode::NoHostsAvailable, none.to_string())
                    .with_detail("hosts", none.considered)
                    .with_detail("failed_tests", failed)
                    .with_retry_after(Duration::from_secs(5))
            }
            SandboxError::Full(message) => {
                Self::new(ErrorCode::NoHostsAvailable, format!("no host can take this sandbox: {message}"))
                    .with_retry_after(Duration::from_secs(5))
            }
            SandboxError::Queue => Self::overloaded("too many sandboxes are being created; try again in a moment"),
            SandboxError::Layers(error) => error.into(),
            SandboxError::Quota(error) => error.into(),
            SandboxError::Secret(
                error @ (SecretError::NotForHeader(_)
                | SecretError::Unfit { .. }
                | SecretError::NotForProxy(_)
                | SecretError::UnfitForProxy
                | SecretError::NoIdentity(_)),
            ) => error.into(),
            SandboxError::Secret(error) => Self::from(error).with_field("secrets"),
            SandboxError::Volume(error) => Self::from(error).with_field("volumes"),
            SandboxError::Host(error) => error.into(),
            SandboxError::Db(error) => error.into(),
            SandboxError::ListHosts(cause) => Self::internal(cause),
            SandboxError::Interrupted => Self::internal(error),
        }
    }
}

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy => Self::overloaded("too many people are signing in at once; try again in a moment"),
            error => Self::internal(error),
        }
    }
}

impl From<SigningError> for ApiError {
    fn from(error: SigningError) -> Self {
        match error {
            SigningError::Db(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Db(error) => error.into(),
            SessionError::Signing(error) => error.into(),
        }
    }
}

impl From<LayerError> for ApiError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Host(error) => error.into(),
            LayerError::Db(error) => error.into(),
            LayerError::Object(error) => Self::internal(error),
            LayerError::Elsewhere => {
                Self::new(ErrorCode::NoHostsAvailable, error.to_string()).with_retry_after(Duration::from_secs(5))
            }
            LayerError::NotForTheseHosts | LayerError::Lost | LayerError::Gone => Self::conflict(error.to_string()),
        }
    }
}

impl From<QuotaError> for ApiError {
    fn from(error: QuotaError) -> Self {
        let message = error.to_string();
        match error {
            QuotaError::Exceeded { quota, used, asked, limit } => Self::new(ErrorCode::QuotaExceeded, message)
                .with_detail("quota", quota)
                .with_detail("used", used)
                .with_detail("asked", asked)
                .with_detail("limit", limit)
                .with_retry_after(Duration::from_secs(60)),
            QuotaError::NoTeam => Self::not_found("team"),
            QuotaError::Db(error) => error.into(),
        }
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::new(ErrorCode::Unauthorized, "wrong email or password"),
            LoginError::TooMany(wait) => {
                Self::new(ErrorCode::RateLimited, "too many attempts; try again later").with_retry_after(wait)
            }
            LoginError::Db(error) => error.into(),
            LoginError::Hash(error) => error.into(),
            LoginError::Session(error) => error.into(),
        }
    }
}

impl From<SetupError> for ApiError {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Refused => Self::new(ErrorCode::Unauthorized, "the setup token is not valid"),
            error @ SetupError::Password => Self::invalid("password", error.to_string()),
            SetupError::Unkept(cause) => Self::internal(cause),
            SetupError::Login(error) => error.into(),
            SetupError::Db(error) => error.into(),
            SetupError::Hash(error) => error.into(),
        }
    }
}

impl From<SignupError> for ApiError {
    fn from(error: SignupError) -> Self {
        match error {
            SignupError::Closed => Self::new(ErrorCode::SignupClosed, "accounts are made by an admin here"),
            SignupError::InvitationNeeded => {
                Self::new(ErrorCode::SignupClosed, "accounts are made by invitation here; ask for one")
                    .with_field("invitation")
            }
            SignupError::EmailTaken => {
                Self::new(ErrorCode::EmailTaken, "there is an account with this address; sign in").with_field("email")
            }
            error @ SignupError::Password => Self::invalid("password", error.to_string()),
            SignupError::Login(error) => error.into(),
            SignupError::Hash(error) => error.into(),
            SignupError::Session(error) => error.into(),
            SignupError::Db(error) => error.into(),
        }
    }
}

impl From<InvitationError> for ApiError {
    fn from(error: InvitationError) -> Self {
        match error {
            InvitationError::Gone => {
                Self::new(ErrorCode::NotFound, "this invitation is no longer good; ask for a new one")
            }
            error @ InvitationError::TooMany => Self::new(ErrorCode::QuotaExceeded, error.to_string())
                .with_detail("quota", "invitations")
                .with_detail("used", MAX_INVITATIONS)
                .with_detail("limit", MAX_INVITATIONS)
                .with_retry_after(Duration::from_secs(60)),
            InvitationError::Team(error) => error.into(),
            InvitationError::Signup(error) => error.into(),
            InvitationError::Db(error) => error.into(),
        }
    }
}

impl From<ResetError> for ApiError {
    fn from(error: ResetError) -> Self {
        match error {
            error @ ResetError::Gone => Self::new(ErrorCode::NotFound, error.to_string()).with_field("token"),
            ResetError::NoUser => Self::not_found("user"),
            ResetError::Password(PasswordError::Length) => Self::invalid("password", PasswordError::Length.to_string()),
            ResetError::Password(error) => error.into(),
            ResetError::Login(error) => error.into(),
            ResetError::Signup(error) => error.into(),
            ResetError::Db(error) => error.into(),
        }
    }
}

impl From<DeviceError> for ApiError {
    fn from(error: DeviceError) -> Self {
        let message = error.to_string();
        match error {
            DeviceError::Pending => Self::new(ErrorCode::AuthorizationPending, message),
            DeviceError::SlowDown { interval } => {
                Self::new(ErrorCode::SlowDown, message).with_detail("interval", interval.as_secs())
            }
            DeviceError::Denied => Self::new(ErrorCode::AccessDenied, message),
            DeviceError::Expired => Self::new(ErrorCode::ExpiredToken, message),
            DeviceError::NoCode => Self::new(ErrorCode::NotFound, message).with_field("user_code"),
            DeviceError::Login(error) => error.into(),
            DeviceError::Session(error) => error.into(),
            DeviceError::Db(error) => error.into(),
        }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Wrong => Self::invalid("current_password", "the current password is not right"),
            error @ PasswordError::Length => Self::invalid("new_password", error.to_string()),
            PasswordError::Changed => Self::conflict("the password was changed meanwhile"),
            PasswordError::Login(error) => error.into(),
            PasswordError::Hash(error) => error.into(),
            PasswordError::Db(error) => error.into(),
        }
    }
}

/// An error of the guest agent in a sandbox. What it said of the request is the client's to know; what happened on
/// the way is not. `field` is the request's field that a refusal is about.
pub fn guest_error(
    host: &HostId,
    attempted: &'static str,
    field: Option<&'static str>,
    error: ConnectError,
) -> ApiError {
    let refusal = Refusal::of(&error);
    let error = FleetError::from_rpc(host, attempted, error);
    let FleetError::Agent { code, message, .. } = &error else { return error.into() };
    let (code, field) = match code {
        RpcCode::InvalidArgument | RpcCode::OutOfRange => (ErrorCode::InvalidRequest, field),
        RpcCode::Unauthenticated => (ErrorCode::InvalidRequest, Some("user")),
        RpcCode::NotFound => (ErrorCode::NotFound, field),
        RpcCode::AlreadyExists | RpcCode::FailedPrecondition | RpcCode::Aborted => (ErrorCode::Conflict, field),
        RpcCode::PermissionDenied => (ErrorCode::Forbidden, field),
        RpcCode::ResourceExhausted => (ErrorCode::QuotaExceeded, None),
        RpcCode::DeadlineExceeded => (ErrorCode::Timeout, None),
        _ => (ErrorCode::AgentError, None),
    };
    let mut answer = ApiError::new(code, message.clone());
    answer.field = field.map(Into::into);
    if let Some(refusal) = refusal {
        answer = refusal.told_in(answer);
    }
    answer.with_source(error)
}

/// What a guest agent says of the request that it refuses.
pub struct Refusal(wire::Refusal);

/// The fields that a guest can be asked for; anything else that it says is not believed.
const FIELDS: [&str; 6] = ["cmd", "args", "env", "cwd", "user", "tag"];

impl Refusal {
    #[must_use]
    pub fn of(error: &ConnectError) -> Option<Self> {
        let detail = error.details.iter().find(|detail| detail.type_url.ends_with("atoll.guest.v1.Refusal"))?;
        let bytes = STANDARD_NO_PAD.decode(detail.value.as_deref()?.trim_end_matches('=')).ok()?;
        wire::Refusal::decode_from_slice(&bytes).ok().map(Self)
    }

    /// Names the field, and says in `reason` what is wrong with it.
    #[must_use]
    pub fn told_in(self, mut error: ApiError) -> ApiError {
        if let Some(field) = FIELDS.into_iter().find(|field| *field == self.0.field) {
            error.field = Some(field.into());
        }
        match self.0.reason.as_known() {
            Some(wire::RefusalReason::REFUSAL_REASON_NOT_FOUND) => error.with_detail("reason", "not_found"),
            Some(wire::RefusalReason::REFUSAL_REASON_NOT_EXECUTABLE) => error.with_detail("reason", "not_executable"),
            _ => error,
        }
    }
}
