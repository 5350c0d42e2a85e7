//! The command line: every command, its options, and the examples in its help.
//!
//! Nothing is done here. `settings` holds what the server's and the host's commands are told; the others hold the commands
//! that talk to a server.

pub mod accounts;
pub mod keeping;
pub mod sandboxes;
pub mod settings;
pub mod teams;
pub mod templates;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use accounts::{HostsCommand, KeyCommand, LoginArgs};
pub use keeping::{SecretCommand, SnapshotCommand, VolumeCommand};
pub use sandboxes::{CpArgs, ExecArgs, McpArgs, RunArgs, SandboxCommand, ShellArgs};
pub use settings::{HostArgs, ServerArgs, UpArgs};
pub use templates::TemplateCommand;

const EXAMPLES: &str = "\
Examples:
  atoll up                                  start Atoll on this machine
  atoll run -- python3 -c 'print(6*7)'      run a program in a fresh sandbox
  atoll run -it -- bash                     the same, with a terminal
  atoll sandbox create --memory 1024        a sandbox that stays
  atoll cp ./data sb-…:/home/user/data      copy files into it
  atoll shell sb-…                          a shell in it

The server is found by ATOLL_URL and ATOLL_API_KEY, or by the credentials of the Atoll here.";

#[derive(Debug, Parser)]
#[command(name = "atoll", version, about = "A self-hosted sandbox cloud", after_help = EXAMPLES)]
#[command(disable_help_subcommand = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print results (and errors) as JSON, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// The server to talk to; wins over the credentials that are found
    #[arg(long, global = true, env = "ATOLL_URL", value_name = "URL", help_heading = "Global options")]
    pub url: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start Atoll on this machine: control plane and one host in one process
    #[command(after_help = "\
Examples:
  atoll up
  atoll up --data-dir /srv/atoll --listen 0.0.0.0:7420

When it is ready it prints its address, how to log in, and where the logs are.
SIGTERM and Ctrl-C end it in order; sandboxes run on, and the next `atoll up` on the same
data directory finds them again.")]
    Up(Box<UpArgs>),
    /// Start only the control plane, for hosts on other machines
    #[command(args_conflicts_with_subcommands = true)]
    Server(Box<ServerCommand>),
    /// Start a host agent, or prepare a machine to be a host
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
Examples:
  atoll host check                                         what this machine can run
  ATOLL_REGISTER=TOKEN atoll host --server https://atoll.example --address 10.0.0.5:7421
  atoll host                                               from then on
  atoll host install --server https://atoll.example        a systemd unit that does this"
    )]
    Host(Box<HostCommand>),
    /// Run a program in a fresh sandbox and destroy the sandbox afterwards
    #[command(after_help = "\
Examples:
  atoll run -- python3 -c 'print(6*7)'
  cat data.csv | atoll run -- wc -l
  atoll run -it -- bash
  atoll run --memory 2048 --vcpus 2 --env KEY=value -- make test

The exit code is the program's; 128+n when signal n ended it; 125 when Atoll itself failed;
126 when the program can't be executed, 127 when there is none. Signals are passed on.
The sandbox is destroyed when the program ends, and also when atoll is killed.")]
    Run(RunArgs),
    /// Create, look at and destroy sandboxes, and run programs in them
    #[command(subcommand, visible_alias = "sb")]
    Sandbox(SandboxCommand),
    /// Build templates, to make sandboxes from
    #[command(subcommand, visible_alias = "tpl")]
    Template(TemplateCommand),
    /// Keep sandboxes' files under names, to make sandboxes from
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Keep values that sandboxes get as environment; they are never read back
    #[command(
        subcommand,
        after_help = "\
Examples:
  atoll secret set openai < key.txt
  atoll run --secret OPENAI_API_KEY=openai -- python3 ask.py"
    )]
    Secret(SecretCommand),
    /// Make volumes: files that outlive sandboxes, mounted into them
    #[command(
        subcommand,
        after_help = "\
Examples:
  atoll volume create data --size 4096
  atoll run --volume data:/data -- sh -c 'date >> /data/log'"
    )]
    Volume(VolumeCommand),
    /// Copy files and directories into a sandbox or out of it
    #[command(after_help = "\
Examples:
  atoll cp ./data sb-…:/home/user/data      a file or a directory, into the sandbox
  atoll cp sb-…:/home/user/out.csv .        out of it
  tar c . | atoll cp - sb-…:/tmp/all.tar    from stdin
  atoll cp sb-…:/etc/os-release -           to stdout")]
    Cp(CpArgs),
    /// A shell in a sandbox; in a fresh one when none is named
    Shell(ShellArgs),
    /// Run a program in a sandbox (the same as `sandbox exec`)
    Exec(ExecArgs),
    /// List sandboxes (the same as `sandbox list`)
    #[command(visible_alias = "ls")]
    Ps(sandboxes::ListArgs),
    /// Destroy sandboxes (the same as `sandbox rm`)
    Rm(sandboxes::RmArgs),
    /// Make, list and delete API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make, look at, drain and delete the machines that run sandboxes
    #[command(
        subcommand,
        after_help = "\
Examples:
  atoll hosts create --name rack-7          prints the token that its agent enrols with
  atoll hosts list
  atoll hosts drain host-…                  nothing new lands on it, and what is paused moves away
  atoll hosts drain-status host-…           what is still there, and why
  atoll hosts delete host-… --force         with all sandboxes on it

These take your account (--email), or on the machine of `atoll up` its admin's."
    )]
    Hosts(HostsCommand),
    /// Make teams, and manage who is in them
    #[command(
        subcommand,
        after_help = "\
Examples:
  atoll team create Research                prints its id
  atoll team add team-… ada@example.com --role admin
  atoll team usage                          sandbox hours per day, and the quotas

These take your account (--email), or on the machine of `atoll up` its admin's."
    )]
    Team(teams::TeamCommand),
    /// What platform admins see and switch: teams, people, quotas
    #[command(subcommand)]
    Admin(teams::AdminCommand),
    /// Who did what to which thing, newest first
    #[command(after_help = "\
Examples:
  atoll audit --action sandbox.create
  atoll audit --resource sb-… --json
  atoll audit --all --since 2026-11-25T00:00:00Z    of every team, for platform admins")]
    Audit(teams::AuditArgs),
    /// Sign in to a server, and remember it for this user
    Login(LoginArgs),
    /// End the session of `atoll login`, and forget the server
    Logout,
    /// Give agents sandboxes as tools, by the Model Context Protocol (MCP)
    #[command(after_help = "\
Examples:
  atoll mcp                        over stdio: the command that an agent's configuration names
  atoll mcp --keep                 sandboxes stay when the agent goes
  atoll mcp --http                 over HTTP, at http://127.0.0.1:7430/mcp
  atoll mcp --http 10.0.0.5:7430 --allow-host mcp.example.com

What agents are configured with (most read this form, from a file such as .mcp.json):
  {\"mcpServers\": {\"atoll\": {\"command\": \"atoll\", \"args\": [\"mcp\"],
    \"env\": {\"ATOLL_URL\": \"http://127.0.0.1:7420\", \"ATOLL_API_KEY\": \"atl_...\"}}}}

Over stdio everything is done with the credentials that every command uses. Over HTTP each request brings
its caller's own API key (Authorization: Bearer KEY) and can do what that key can, nothing else.
Sandboxes are destroyed when the session that made them ends, unless the agent or --keep says otherwise.")]
    Mcp(McpArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  atoll completion bash > /etc/bash_completion.d/atoll
  atoll completion zsh > \"${fpath[1]}/_atoll\"
  atoll completion fish > ~/.config/fish/completions/atoll.fish")]
    Completion { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub struct ServerCommand {
    #[command(flatten)]
    pub run: ServerArgs,
    #[command(subcommand)]
    pub what: Option<ServerSubcommand>,
}

#[derive(Debug, Subcommand)]
pub enum ServerSubcommand {
    /// Keys that sign the tokens of people and hosts
    #[command(subcommand)]
    Keys(KeysCommand),
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make new keys; what the older ones signed stays good until it is over
    #[command(after_help = "\
The server may run meanwhile: it uses the new keys within a minute, for identities of sandboxes after two.
With --jwt-key, put a new key first into that file instead, and restart.")]
    Rotate(settings::RotateArgs),
}

#[derive(Debug, Args)]
pub struct HostCommand {
    #[command(flatten)]
    pub run: HostArgs,
    #[command(subcommand)]
    pub what: Option<HostSubcommand>,
}

#[derive(Debug, Subcommand)]
pub enum HostSubcommand {
    /// Say what this machine can run, and what to do about the rest
    Check {
        /// Where everything of this host is to be kept
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Write a systemd unit that runs this machine as a host
    Install(Box<settings::InstallArgs>),
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_program_keeps_its_own_options() {
        for line in [
            &["atoll", "run", "--", "ls", "-l", "--json", "--", "x"][..],
            &["atoll", "run", "ls", "-l", "--json", "--", "x"][..],
        ] {
            let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!() };
            assert_eq!(run.command, ["ls", "-l", "--json", "--", "x"]);
        }
    }

    #[test]
    fn short_flags_for_a_terminal_can_be_joined() {
        let Command::Run(run) = Cli::try_parse_from(["atoll", "run", "-it", "bash"]).unwrap().command else { panic!() };
        assert!(run.tty);
    }

    #[test]
    fn host_is_a_command_and_has_subcommands() {
        let parsed = Cli::try_parse_from(["atoll", "host", "--server", "http://x"]).unwrap();
        let Command::Host(host) = parsed.command else { panic!() };
        assert!(host.what.is_none() && host.run.server.as_deref() == Some("http://x"));
        let arguments = ["atoll", "host", "check", "--data-dir", "/d"];
        let Command::Host(host) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        assert!(matches!(host.what, Some(HostSubcommand::Check { data_dir: Some(dir) }) if dir == Path::new("/d")));
        let Command::Host(host) = Cli::try_parse_from(["atoll", "host", "check"]).unwrap().command else { panic!() };
        assert!(matches!(host.what, Some(HostSubcommand::Check { data_dir: None })));
    }
}
