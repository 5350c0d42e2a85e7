//! Running a program to its end in one call.

use std::string::FromUtf8Error;
use std::time::Duration;

use atoll_model::api::sandboxes::{BackgroundExecResponse, Encoding, ExecRequest, ExecResponse};
use atoll_model::{ErrorCode, SandboxId};
use atoll_rpc::atoll::guest::v1 as wire;
use atoll_rpc::connectrpc::client::CallOptions;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json};
use super::guest::Guest;
use super::places::AnswerMeter;
use super::validate;
use crate::app::App;

const DEFAULT_SECONDS: u64 = 30;
const MAX_SECONDS: u64 = 3600;
/// Of stdout and of stderr, each.
const MAX_OUTPUT: u64 = 8 << 20;
/// How much longer than the program the call may take.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a program and answers with its output; with `background`, answers at once with its pid.
///
/// A program that is still running at its timeout is killed: 504 `timeout`, with what it wrote so far in
/// `error.stdout` and `error.stderr`. One that writes more than 8 MiB is killed too: 413 `too_large`; use
/// `exec/stream` for such programs.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", tag = "programs", params(("id" = SandboxId, Path)),
    request_body = ExecRequest,
    responses((status = 200, body = ExecResponse), (status = 202, body = BackgroundExecResponse), (status = 409),
        (status = 413), (status = 429), (status = 502), (status = 504)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn exec(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<ExecRequest>,
) -> ApiResult<Response> {
    validate::command(&request.cmd, &request.args, &request.env)?;
    validate::user(request.user.as_deref())?;
    validate::tag(request.tag.as_deref())?;
    if let Some(cwd) = &request.cwd {
        validate::path("cwd", cwd)?;
    }
    let seconds = validate::within("timeout_sec", request.timeout_sec.unwrap_or(DEFAULT_SECONDS), (1, MAX_SECONDS))?;
    let mut guest = Guest::of(&app, &owner, id, "run a program in").await?;
    let (cmd, tag, background) = (request.cmd.clone(), request.tag.clone(), request.background);
    let options = CallOptions::default().with_timeout(Duration::from_secs(seconds) + GRACE);
    let meter = AnswerMeter::new(&app, &owner.team, MAX_OUTPUT as usize * 2 + (1 << 20));
    let asked = to_wire(request, seconds);
    let mut call = guest.metered_service(&meter).exec_with_options(asked.clone(), options.clone()).await;
    if call.as_ref().is_err_and(|error| guest.was_paused(error)) {
        // Between the look and the request. Nothing has reached it; one that wakes by itself does so now.
        guest = Guest::of(&app, &owner, guest.id.clone(), "run a program in").await?;
        call = guest.metered_service(&meter).exec_with_options(asked, options).await;
    }
    let failed = |error| meter.refusal().unwrap_or_else(|| guest.error("run the program", None, error));
    let done = call.map_err(failed)?.into_owned();
    if background {
        return Ok((StatusCode::ACCEPTED, axum::Json(BackgroundExecResponse { pid: done.pid, tag })).into_response());
    }
    let (timed_out, truncated) = (done.timed_out, done.truncated);
    let answer = from_wire(guest.id.clone(), cmd, done);
    if timed_out {
        let message = format!("the program was still running after {seconds} s and was killed");
        return Ok(meter.keep(with_output(ApiError::new(ErrorCode::Timeout, message), answer).into_response()));
    }
    if truncated {
        let message = format!("the program wrote more than {MAX_OUTPUT} bytes and was killed; use exec/stream");
        return Err(ApiError::new(ErrorCode::TooLarge, message)
            .with_detail("limit_bytes", MAX_OUTPUT)
            .with_detail("exit_code", answer.exit_code));
    }
    Ok(meter.keep(axum::Json(answer).into_response()))
}

fn to_wire(request: ExecRequest, seconds: u64) -> wire::ExecRequest {
    wire::ExecRequest {
        cmd: request.cmd,
        args: request.args,
        envs: request.env.into_iter().collect(),
        cwd: request.cwd.unwrap_or_default(),
        user: request.user.unwrap_or_default(),
        // A program in the background has no deadline.
        timeout_ms: if request.background { 0 } else { u32::try_from(seconds * 1000).unwrap_or(u32::MAX) },
        max_output_bytes: MAX_OUTPUT,
        tag: request.tag.unwrap_or_default(),
        background: request.background,
        ..Default::default()
    }
}

/// Output as it is when all of it is UTF-8, else all of it as base64.
fn from_wire(sandbox_id: SandboxId, cmd: String, done: wire::ExecResponse) -> ExecResponse {
    let (stdout, stderr, encoding) = match (String::from_utf8(done.stdout), String::from_utf8(done.stderr)) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr, Encoding::Utf8),
        (stdout, stderr) => {
            let bytes =
                |text: Result<String, FromUtf8Error>| text.map_or_else(FromUtf8Error::into_bytes, String::into_bytes);
            (STANDARD.encode(bytes(stdout)), STANDARD.encode(bytes(stderr)), Encoding::Base64)
        }
    };
    ExecResponse {
        sandbox_id,
        cmd,
        stdout,
        stderr,
        exit_code: done.exit_code,
        duration_ms: done.duration_us as f64 / 1000.0,
        encoding,
    }
}

fn with_output(error: ApiError, answer: ExecResponse) -> ApiError {
    error
        .with_detail("stdout", answer.stdout)
        .with_detail("stderr", answer.stderr)
        .with_detail("encoding", serde_json::to_value(answer.encoding).unwrap_or_default())
        .with_detail("duration_ms", answer.duration_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_is_not_utf8_comes_as_base64_whole() {
        let done = |stdout: &[u8]| wire::ExecResponse {
            stdout: stdout.to_vec(),
            stderr: b"plain".to_vec(),
            ..Default::default()
        };
        let text = from_wire(SandboxId::new(), "a".to_owned(), done("grüß".as_bytes()));
        assert_eq!((text.stdout.as_str(), text.encoding), ("grüß", Encoding::Utf8));
        let binary = from_wire(SandboxId::new(), "a".to_owned(), done(&[0xff, 0xfe]));
        assert_eq!((binary.stdout.as_str(), binary.encoding), ("//4=", Encoding::Base64));
        assert_eq!(STANDARD.decode(binary.stderr).unwrap(), b"plain");
    }
}
