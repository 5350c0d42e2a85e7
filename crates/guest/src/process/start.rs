//! From a request to a running, tracked process: user, directory, environment, descriptors, pump.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use atoll_rpc::atoll::guest::v1::{Refusal, RefusalReason};
use atoll_rpc::process::ProcessConfig;
use connectrpc::{ConnectError, ErrorDetail};
use tokio::io::Interest;
use tokio::sync::mpsc;

use super::descriptors::{Input, Output};
use super::pump::{self, Outputs};
use super::table::MAX_PROCESSES;
use super::{Event, Process};
use crate::async_fd::watch;
use crate::guest::Guest;
use crate::paths::{self, PathError};
use crate::spawn::{self, Command, DEFAULT_PATH, Ends, SpawnError, Stdio};
use crate::users::Account;

/// What shall run, and how.
pub struct Request {
    pub config: ProcessConfig,
    pub account: Account,
    pub tag: Option<String>,
    pub stdio: Stdio,
    /// When the process and its group are killed.
    pub deadline: Option<Instant>,
    /// The end is told soon after the process itself has ended, though others may still hold its output open.
    pub ends_with_process: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cwd: {0}")]
    Cwd(#[from] PathError),
    #[error("the tag is longer than {MAX_TAG_BYTES} bytes")]
    TagTooLong,
    #[error("the sandbox runs {MAX_PROCESSES} tracked processes already; end some first")]
    Full,
    #[error("the output of the process can't be watched: {0}")]
    Watch(io::Error),
}

const MAX_TAG_BYTES: usize = 1024;

impl From<StartError> for ConnectError {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Full | StartError::Spawn(SpawnError::Exhausted(_)) => Self::resource_exhausted(message),
            StartError::Watch(_) | StartError::Spawn(SpawnError::Internal { .. }) => Self::internal(message),
            _ => Self::invalid_argument(message)
                .with_detail(ErrorDetail::from_message("atoll.guest.v1.Refusal", &refusal(&error))),
        }
    }
}

/// Which field of the request is at fault.
fn refusal(error: &StartError) -> Refusal {
    use RefusalReason::{
        REFUSAL_REASON_NOT_EXECUTABLE as NotExecutable, REFUSAL_REASON_NOT_FOUND as NotFound,
        REFUSAL_REASON_UNSPECIFIED as Other,
    };
    let (field, reason) = match error {
        StartError::Cwd(_) => ("cwd", Other),
        StartError::TagTooLong => ("tag", Other),
        StartError::Spawn(spawn) => match spawn {
            SpawnError::NoCwd(_) => ("cwd", NotFound),
            SpawnError::CwdNotDirectory(_) | SpawnError::CwdForbidden { .. } => ("cwd", NotExecutable),
            SpawnError::NotFound { .. } => ("cmd", NotFound),
            SpawnError::Forbidden { .. } | SpawnError::NotExecutable { .. } => ("cmd", NotExecutable),
            SpawnError::VariableName(_) => ("env", Other),
            SpawnError::TooLong { .. } => ("args", Other),
            SpawnError::Nul { .. } | SpawnError::NoProgram => ("cmd", Other),
            SpawnError::Exhausted(_) | SpawnError::Internal { .. } => ("", Other),
        },
        StartError::Full | StartError::Watch(_) => ("", Other),
    };
    Refusal { field: field.to_owned(), reason: reason.into(), ..Default::default() }
}

/// Starts the process; its first listener hears everything from the beginning.
pub fn start(guest: &Arc<Guest>, request: Request) -> Result<(Arc<Process>, mpsc::Receiver<Event>), StartError> {
    let Request { mut config, account, tag, stdio, deadline, ends_with_process } = request;
    if tag.as_ref().is_some_and(|tag| tag.len() > MAX_TAG_BYTES) {
        return Err(StartError::TagTooLong);
    }
    guest.processes.has_room().map_err(|_| StartError::Full)?;
    let (env, cwd) = {
        let settings = guest.settings();
        let cwd = paths::resolve(config.cwd.as_deref().unwrap_or(""), &account, &settings.default_workdir)?;
        (environment(&account, &settings.env, &config), cwd)
    };
    guest.proc_files.freshen();
    let command = Command {
        program: std::mem::take(&mut config.cmd),
        args: std::mem::take(&mut config.args),
        env,
        cwd,
        account,
        stdio,
    };
    let child = spawn::spawn(&guest.reaper, &command)?;
    config.cmd = command.program;
    config.args = command.args;

    let (input, outputs) = match connect(child.ends) {
        Ok(connected) => connected,
        Err(error) => {
            // Without its descriptors in hand the process can't be served: it goes again.
            if let Some(pid) = i32::try_from(child.pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            return Err(StartError::Watch(error));
        }
    };
    let (process, events) = Process::new(child.pid, config, tag, input, ends_with_process);
    let process = Arc::new(process);
    guest.processes.insert(process.clone());
    guest.logs.info(format!(
        "process {} started as user {}: {}",
        process.pid,
        command.account.name,
        process.config.cmd.chars().take(100).collect::<String>()
    ));
    tokio::spawn(pump::run(guest.clone(), process.clone(), outputs, child.exit, deadline));
    guest.proc_files.keep_fresh(guest);
    Ok((process, events))
}

fn connect(ends: Ends) -> io::Result<(Input, Outputs)> {
    match ends {
        Ends::Pipes { stdin, stdout, stderr } => {
            let outputs = Outputs::Pipes { stdout: Output::pipe(stdout)?, stderr: Output::pipe(stderr)? };
            Ok((Input::pipe(stdin)?, outputs))
        }
        Ends::Terminal(terminal) => {
            let terminal = Arc::new(watch(terminal, Interest::READABLE | Interest::WRITABLE)?);
            Ok((Input::terminal_input(terminal.clone()), Outputs::Terminal(Output::terminal(terminal))))
        }
    }
}

/// What the user is, then what the sandbox always gives, then what the request says; later ones win.
fn environment(
    account: &Account,
    defaults: &std::collections::BTreeMap<String, String>,
    config: &ProcessConfig,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> =
        [("PATH", DEFAULT_PATH), ("HOME", &account.home), ("USER", &account.name), ("LOGNAME", &account.name)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let mut set = |name: &String, value: &String| match env.iter_mut().take(4).find(|(known, _)| known == name) {
        Some((_, known)) => known.clone_from(value),
        None => env.push((name.clone(), value.clone())),
    };
    for (name, value) in defaults.iter().filter(|(name, _)| !config.envs.contains_key(*name)) {
        set(name, value);
    }
    for (name, value) in &config.envs {
        set(name, value);
    }
    env
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_requests_environment_wins_over_the_sandboxs_and_that_over_the_users() {
        let account = Account { name: "user".into(), uid: 1, gid: 1, home: "/home/user".into(), groups: vec![] };
        let defaults = BTreeMap::from([("A", "default"), ("B", "default"), ("HOME", "/default")])
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut config = ProcessConfig::default();
        config.envs.insert("A".into(), "request".into());
        config.envs.insert("PATH".into(), "/request".into());
        let env = environment(&account, &defaults, &config);
        let all = |name: &str| env.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(all("A"), ["request"]);
        assert_eq!(all("B"), ["default"]);
        assert_eq!(all("HOME"), ["/default"]);
        assert_eq!(all("PATH"), ["/request"]);
        assert_eq!(all("USER"), ["user"]);
    }
}
