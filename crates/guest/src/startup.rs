//! The template's start command: run once at the guest's start, as any other process, under the tag `startup`. What it
//! writes goes to the guest's log. The guest does not wait for it and does not start it again.

use std::sync::Arc;

use atoll_rpc::process::ProcessConfig;

use crate::guest::Guest;
use crate::process::{Event, Request, start};
use crate::spawn::Stdio;
use crate::users;

const TAG: &str = "startup";
/// Of one piece of output, so much is logged.
const SHOWN: usize = 1000;

pub fn begin(guest: &Arc<Guest>) {
    let Some(startup) = guest.config().startup.clone() else { return };
    let name = if startup.user.is_empty() { guest.default_user() } else { startup.user };
    let account = match users::by_name(&name) {
        Ok(account) => account,
        Err(error) => return guest.logs.error(format!("the start command could not be run: {error}")),
    };
    let config = ProcessConfig {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), startup.cmd],
        cwd: Some(startup.cwd).filter(|cwd| !cwd.is_empty()),
        ..Default::default()
    };
    let request = Request {
        config,
        account,
        tag: Some(TAG.to_owned()),
        stdio: Stdio::Pipes { stdin: false },
        deadline: None,
        ends_with_process: true,
    };
    let mut events = match start(guest, request) {
        Ok((_, events)) => events,
        Err(error) => return guest.logs.error(format!("the start command could not be run: {error}")),
    };
    let guest = guest.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let (Event::Stdout(bytes) | Event::Stderr(bytes) | Event::Terminal(bytes)) = event else { continue };
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                guest.logs.info(format!("startup: {line}"));
            }
        }
        guest.logs.info("the start command has ended".to_owned());
    });
}
