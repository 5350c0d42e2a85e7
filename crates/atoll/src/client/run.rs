//! `atoll run`: a program in a fresh sandbox.

use std::time::Duration;

use anyhow::Context;
use atoll_client::Start;

use super::fresh::{Created, FreshSandbox};
use super::signals::Signals;
use super::{program, shape};
use crate::cli::{Global, RunArgs};

pub async fn main(args: RunArgs, global: &Global) -> anyhow::Result<u8> {
    program::check_tty(args.tty)?;
    let request = shape::request(&args.shape)?;
    let client = super::client(global)?;
    let mut signals = Signals::install().context("catching signals")?;
    let sandbox = match FreshSandbox::create(&client, request, &mut signals).await? {
        Created::Ready(sandbox) => *sandbox,
        Created::Interrupted(code) => return Ok(code),
    };
    let mut command = args.command.into_iter();
    let start =
        Start { cmd: command.next(), args: command.collect(), cwd: args.workdir, user: args.user, ..Start::default() };
    let deadline = args.timeout.map(Duration::from_secs);
    let result = program::run(&client, sandbox.id(), start, args.tty, &mut signals, deadline).await;
    end(sandbox, args.keep).await;
    result
}

/// Destroys the sandbox, or says which one lives on.
pub async fn end(sandbox: FreshSandbox, keep: bool) {
    if !keep {
        return sandbox.destroy().await;
    }
    let id = sandbox.id().clone();
    match sandbox.keep().await {
        Ok(id) => eprintln!("atoll: kept {id}"),
        Err(error) => eprintln!("atoll: {id} could not be kept: {error:#}"),
    }
}
