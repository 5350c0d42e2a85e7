//! The commands that talk to a server. Each file is one of them, or what several share: `program` is attached to a
//! running program, `terminal` and `streams` are this side's ends of it, `fresh` is a sandbox that lives as long as
//! the command.

mod admin;
mod audit;
mod cp;
mod device;
mod exec;
mod fresh;
mod hosts;
mod key;
mod login;
mod logout;
mod person;
pub mod program;
mod run;
mod sandbox;
mod secret;
mod shape;
mod shell;
mod signals;
mod snapshot;
mod streams;
mod tarball;
mod team;
mod template;
mod terminal;
mod volume;

use anyhow::Context;
use atoll_client::{Client, Credentials, CredentialsError};

use crate::cli::{Command, Global};
use crate::output::with_hint;

/// Runs `command` on a runtime of its own: one thread is enough, and starts at once.
pub fn main(command: Command, global: &Global) -> anyhow::Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the async runtime")?;
    let result = runtime.block_on(dispatch(command, global));
    // A thread may still wait for a key that nobody will press.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, global: &Global) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => run::main(args, global).await,
        Command::Shell(args) => shell::main(args, global).await,
        Command::Exec(args) => exec::main(args, global).await,
        Command::Sandbox(command) => sandbox::main(command, global).await,
        Command::Template(command) => template::main(command, global).await,
        Command::Snapshot(command) => snapshot::main(command, global).await,
        Command::Secret(command) => secret::main(command, global).await,
        Command::Volume(command) => volume::main(command, global).await,
        Command::Ps(args) => sandbox::list(&args, global).await,
        Command::Rm(args) => sandbox::remove(&args, global).await,
        Command::Cp(args) => cp::main(args, global).await,
        Command::Key(command) => key::main(command, global).await,
        Command::Hosts(command) => hosts::main(command, global).await,
        Command::Team(command) => team::main(command, global).await,
        Command::Admin(command) => admin::main(command, global).await,
        Command::Audit(args) => audit::main(args, global).await,
        Command::Login(args) => login::main(args, global).await,
        Command::Logout => logout::main(global).await,
        Command::Mcp(args) => crate::mcp::main(args, global).await,
        Command::Up(_) | Command::Server(_) | Command::Host(_) | Command::Completion { .. } => Ok(1),
    }
}

/// Who asks and whom.
fn credentials(global: &Global) -> anyhow::Result<Credentials> {
    let found = match &global.url {
        // `--url` is also ATOLL_URL, so both are judged in one place.
        Some(url) => Credentials::find_for(url),
        None => Credentials::find(),
    };
    found.map_err(|error| match error {
        CredentialsError::NotFound { .. } | CredentialsError::KeyWithoutUrl => with_hint(
            error.to_string(),
            "`atoll up` starts Atoll on this machine; `atoll login --url URL` stores the key of a server elsewhere",
        ),
        CredentialsError::Unreadable { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            with_hint(
                error.to_string(),
                "run this as the user that started Atoll, or `atoll login` with a key of your own",
            )
        }
        other => other.into(),
    })
}

pub(crate) fn client(global: &Global) -> anyhow::Result<Client> {
    Ok(Client::new(&credentials(global)?)?)
}
