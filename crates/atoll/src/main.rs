//! The one binary: reads the command line and hands over to `service` (up, server, host) or `client` (everything
//! that talks to a server). Nothing of either is decided here.

mod cli;
mod client;
mod mcp;
mod output;
mod service;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command, HostSubcommand, KeysCommand, SandboxCommand, ServerSubcommand, TemplateCommand};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    if first == service::host::VM_JAIL {
        service::host::vm_jail();
    }
    if first == service::host::IMAGE_HOLDER {
        service::host::image_holder();
    }
    if ["up", "server", "host"].iter().any(|service| first == *service) {
        // Before any thread exists, since it changes the environment.
        let _ = dotenvy::from_path(".env");
    }
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let wraps_a_program = matches!(
        cli.command,
        Command::Run(_) | Command::Shell(_) | Command::Exec(_) | Command::Sandbox(SandboxCommand::Exec(_))
    );
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::failure(&error, json);
            ExitCode::from(if wraps_a_program { client::program::exit_code_of(&error) } else { 1 })
        }
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let global = cli.global;
    match cli.command {
        Command::Up(args) => service::up::main(*args, &global),
        Command::Server(command) => match command.what {
            None => service::server::main(command.run, &global),
            Some(ServerSubcommand::Keys(KeysCommand::Rotate(args))) => service::keys::rotate(&args, &global),
        },
        Command::Host(command) => match command.what {
            None => service::host::main(command.run, &global),
            Some(HostSubcommand::Check { data_dir }) => {
                let place = command.run.place;
                service::host::check(&data_dir.unwrap_or(place.data_dir), &place.cache_dir, &global)
            }
            Some(HostSubcommand::Install(args)) => service::install::main(&args, &global),
        },
        Command::Template(TemplateCommand::Prepare(args)) => service::prepare::main(&args, &global),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
        command => client::main(command, &global),
    }
}
