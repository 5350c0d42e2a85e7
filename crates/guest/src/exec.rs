//! `atoll.guest.v1.GuestService`: what Atoll itself asks of the guest, over the control socket only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_rpc::atoll::guest::v1::__buffa::oneof::signal_request::Selector as WireSelector;
use atoll_rpc::atoll::guest::v1::{
    ConfigureRequest, ConfigureResponse, ExecRequest, ExecResponse, GuestService, LogLine, LogsRequest, LogsResponse,
    QuiesceRequest, QuiesceResponse, SignalRequest, SignalResponse, TrustRequest, TrustResponse,
};
use atoll_rpc::process::ProcessConfig;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::guest::Guest;
use crate::process::table::Selector;
use crate::process::{End, Event, Process, Request, start};
use crate::reaper::Exit;
use crate::spawn::Stdio;
use crate::users::{self, LookupError};

/// Of stdout and of stderr each, when the request doesn't say.
const USUAL_OUTPUT: u64 = 4 * 1024 * 1024;
/// More than this isn't held in memory for anyone; streams have no such limit.
const MOST_OUTPUT: u64 = 32 * 1024 * 1024;

pub struct Control(pub Arc<Guest>);

/// What a program has written so far.
struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    most: usize,
    truncated: bool,
}

impl Collected {
    async fn until_end(&mut self, process: &Process, events: &mut mpsc::Receiver<Event>) -> Option<End> {
        while let Some(event) = events.recv().await {
            let (buffer, data) = match event {
                Event::Stdout(data) | Event::Terminal(data) => (&mut self.stdout, data),
                Event::Stderr(data) => (&mut self.stderr, data),
                Event::End(end) => return Some(end),
            };
            let room = self.most - buffer.len();
            buffer.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room && !self.truncated {
                self.truncated = true;
                process.kill();
            }
        }
        None
    }
}

impl Control {
    async fn run(&self, request: ExecRequest) -> Result<ExecResponse, ConnectError> {
        let begun = Instant::now();
        let name = if request.user.is_empty() { self.0.default_user() } else { request.user };
        let account = users::by_name(&name).map_err(|error| match error {
            // The code that control takes for a wrong user, as for the other calls.
            LookupError::Unknown(_) => ConnectError::unauthenticated(error.to_string()),
            LookupError::Unreadable { .. } => ConnectError::internal(error.to_string()),
        })?;
        let config = ProcessConfig {
            cmd: request.cmd,
            args: request.args,
            envs: request.envs,
            cwd: Some(request.cwd).filter(|cwd| !cwd.is_empty()),
            ..Default::default()
        };
        let timeout = Duration::from_millis(u64::from(request.timeout_ms));
        let wanted = Request {
            config,
            account,
            tag: Some(request.tag).filter(|tag| !tag.is_empty()),
            stdio: Stdio::Pipes { stdin: !request.stdin.is_empty() },
            deadline: (!timeout.is_zero()).then(|| begun + timeout),
            ends_with_process: !request.background,
        };
        let (process, mut events) = start(&self.0, wanted)?;
        let stdin = request.stdin;
        if request.background {
            drop(events);
            let pid = process.pid;
            if !stdin.is_empty() {
                tokio::spawn(async move { feed(&process, &stdin).await });
            }
            return Ok(ExecResponse { pid, ..Default::default() });
        }

        let most = match request.max_output_bytes {
            0 => USUAL_OUTPUT,
            asked => asked.min(MOST_OUTPUT),
        };
        let mut output = Collected { stdout: Vec::new(), stderr: Vec::new(), most: most as usize, truncated: false };
        let collect = output.until_end(&process, &mut events);
        let end = if stdin.is_empty() {
            collect.await
        } else {
            let feed = async {
                feed(&process, &stdin).await;
                std::future::pending().await
            };
            tokio::select! { end = collect => end, () = feed => None }
        };
        let end =
            end.ok_or_else(|| ConnectError::internal(format!("the end of process {} was not told", process.pid)))?;
        let (exit_code, signal) = match end.exit {
            Exit::Code(code) => (code, 0),
            Exit::Signal(signal) => (128 + signal, signal.unsigned_abs()),
        };
        Ok(ExecResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code,
            signal,
            timed_out: end.timed_out,
            truncated: output.truncated,
            pid: process.pid,
            duration_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Default::default()
        })
    }
}

/// Gives a program its whole input, then its end. A program that doesn't want it has had its chance.
async fn feed(process: &Process, stdin: &[u8]) {
    let _ = process.input.write(stdin, false).await;
    process.input.close().await;
}

impl GuestService for Control {
    async fn exec(&self, _: RequestContext, request: ServiceRequest<'_, ExecRequest>) -> ServiceResult<ExecResponse> {
        Response::ok(self.run(request.to_owned_message()).await?)
    }

    async fn signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SignalRequest>,
    ) -> ServiceResult<SignalResponse> {
        let request = request.to_owned_message();
        let selector = match request.selector {
            Some(WireSelector::Pid(pid)) => Selector::Pid(pid),
            Some(WireSelector::Tag(tag)) => Selector::Tag(tag),
            None => return Err(ConnectError::invalid_argument("give the process's pid or tag")),
        };
        let signal = i32::try_from(request.signal).ok().and_then(Signal::from_named_raw).ok_or_else(|| {
            ConnectError::invalid_argument(format!("{} is not the number of a signal", request.signal))
        })?;
        let process = self.0.processes.find(&selector).ok_or_else(|| ConnectError::not_found(selector.to_string()))?;
        process.signal(signal, request.group).map_err(|error| {
            ConnectError::internal(format!(
                "sending signal {} to process {} failed: {error}",
                request.signal, process.pid
            ))
        })?;
        Response::ok(SignalResponse::default())
    }

    async fn configure(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, ConfigureRequest>,
    ) -> ServiceResult<ConfigureResponse> {
        let request = request.to_owned_message();
        let mut settings = self.0.settings();
        settings.replace_env(&self.0.config(), request.envs.into_iter().collect());
        if let Some(token) = request.access_token {
            settings.set_access_token(Some(token));
        }
        if let Some(user) = request.default_user {
            settings.default_user = user;
        }
        if let Some(workdir) = request.default_workdir {
            settings.default_workdir = workdir;
        }
        drop(settings);
        self.0.logs.info("settings were replaced".to_owned());
        Response::ok(ConfigureResponse::default())
    }

    async fn trust(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, TrustRequest>,
    ) -> ServiceResult<TrustResponse> {
        let pem = request.to_owned_message().authority_pem;
        let bundle = crate::blocking(move || crate::trust::install(&pem)).await;
        let failed =
            |error: std::io::Error| ConnectError::internal(format!("installing a certificate failed: {error}"));
        self.0.settings().set_trusted(bundle.map_err(failed)?);
        Response::ok(TrustResponse::default())
    }

    async fn logs(&self, _: RequestContext, request: ServiceRequest<'_, LogsRequest>) -> ServiceResult<LogsResponse> {
        let request = request.to_owned_message();
        let lines = self.0.logs.after(request.after, request.limit as usize);
        let line = |line: crate::logs::Line| LogLine {
            sequence: line.sequence,
            timestamp_ms: line.timestamp_ms,
            level: line.level.as_str().to_owned(),
            message: line.message,
            pid: line.said.map_or(0, |said| said.pid),
            stream: line.said.map_or_else(String::new, |said| said.stream.to_owned()),
            ..Default::default()
        };
        Response::ok(LogsResponse { lines: lines.into_iter().map(line).collect(), ..Default::default() })
    }

    async fn quiesce(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, QuiesceRequest>,
    ) -> ServiceResult<QuiesceResponse> {
        crate::blocking(|| {
            let root = std::fs::File::open("/")?;
            Ok(rustix::fs::syncfs(&root)?)
        })
        .await
        .map_err(|error: std::io::Error| ConnectError::internal(format!("flushing the file system failed: {error}")))?;
        crate::memory::give_back();
        Response::ok(QuiesceResponse::default())
    }
}
