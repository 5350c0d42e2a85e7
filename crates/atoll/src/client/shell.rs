//! `atoll shell`: a shell in a sandbox, or in a fresh one.

use anyhow::Context;
use atoll_client::Start;

use super::fresh::{Created, FreshSandbox};
use super::signals::Signals;
use super::{program, run, shape};
use crate::cli::{Global, ShellArgs};

pub async fn main(args: ShellArgs, global: &Global) -> anyhow::Result<u8> {
    program::check_tty(true)?;
    let client = super::client(global)?;
    let mut signals = Signals::install().context("catching signals")?;
    let start = Start { cwd: args.workdir, user: args.user, ..Start::default() };
    if let Some(id) = args.sandbox {
        let start = Start { env: shape::environment(&args.shape.env)?, ..start };
        return program::run(&client, &id, start, true, &mut signals, None).await;
    }
    let request = shape::request(&args.shape)?;
    let sandbox = match FreshSandbox::create(&client, request, &mut signals).await? {
        Created::Ready(sandbox) => *sandbox,
        Created::Interrupted(code) => return Ok(code),
    };
    let result = program::run(&client, sandbox.id(), start, true, &mut signals, None).await;
    run::end(sandbox, args.keep).await;
    result
}
