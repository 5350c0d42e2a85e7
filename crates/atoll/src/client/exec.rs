//! `atoll exec`: a program in a sandbox that lives on.

use anyhow::Context;
use atoll_client::Start;
use atoll_client::model::api::sandboxes::ExecRequest;

use super::signals::Signals;
use super::{program, shape};
use crate::cli::{ExecArgs, Global};
use crate::output;

pub async fn main(args: ExecArgs, global: &Global) -> anyhow::Result<u8> {
    let env = shape::environment(&args.env)?;
    let client = super::client(global)?;
    let mut command = args.command.into_iter();
    let (cmd, arguments) = (command.next(), command.collect());
    if args.detach {
        let request = ExecRequest {
            cmd: cmd.unwrap_or_default(),
            args: arguments,
            cwd: args.workdir,
            env,
            user: args.user,
            tag: args.tag,
            ..ExecRequest::default()
        };
        let started = client.exec_background(&args.sandbox, &request).await?;
        if global.json {
            output::print_json(&started)?;
        } else {
            output::print(&format!("{}\n", started.pid))?;
        }
        return Ok(0);
    }
    let mut signals = Signals::install().context("catching signals")?;
    let start =
        Start { cmd, args: arguments, cwd: args.workdir, env, user: args.user, tag: args.tag, ..Start::default() };
    program::run(&client, &args.sandbox, start, args.tty, &mut signals, None).await
}
