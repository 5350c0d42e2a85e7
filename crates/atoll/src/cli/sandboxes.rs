//! Options of the commands that work with sandboxes.

use atoll_model::{OnTimeout, SandboxId, SandboxStatus};
use clap::{Args, Subcommand};

/// What a new sandbox shall be.
#[derive(Debug, Clone, Default, Args)]
pub struct Shape {
    /// Template to make it from [default: base]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Memory in MB [default: 512]
    #[arg(long, value_name = "MB")]
    pub memory: Option<u64>,
    /// Quota of what it may write, in MB [default: 5120]
    #[arg(long, value_name = "MB")]
    pub disk: Option<u64>,
    /// Environment of its processes; `NAME` alone takes the value from here
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A secret as environment, under its own name or another: `NAME`, or `VARIABLE=NAME`
    #[arg(long, value_name = "VARIABLE=NAME")]
    pub secret: Vec<String>,
    /// A header that requests over HTTPS to a name get, unseen by the sandbox:
    /// 'api.example.com=Authorization: Bearer ${secrets.NAME}'
    #[arg(long, value_name = "NAME=HEADER")]
    pub header: Vec<String>,
    /// An identity of its own, and for whom its tokens are; `--header 'NAME=Authorization: Bearer ${identity.NAME}'` adds one
    #[arg(long, value_name = "NAME=AUDIENCE")]
    pub identity: Vec<String>,
    /// A SOCKS5 proxy of your own that its TCP connections go out through; `tls://` before it to speak TLS with it
    #[arg(long, value_name = "[USER:PASSWORD@]HOST:PORT")]
    pub egress_proxy: Option<String>,
    /// Bytes a second that it may send to the world, and as many that it may get from there; `500K` and `10M` are powers of
    /// 1,024
    #[arg(long, value_name = "SIZE", value_parser = super::settings::size)]
    pub bandwidth: Option<u64>,
    /// A volume at a path of the sandbox; `:ro` behind it to read only
    #[arg(long, short = 'v', value_name = "NAME:PATH")]
    pub volume: Vec<String>,
    /// Labels, for lists
    #[arg(long, short = 'l', value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Close all ways out of the sandbox
    #[arg(long)]
    pub no_internet: bool,
    /// Let anybody send requests to its ports
    #[arg(long)]
    pub public: bool,
    /// Isolation driver: container, vm or auto
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// What it begins with, of a snapshot of a virtual machine: memory or files [default: memory, if it was kept]
    #[arg(long, value_name = "WHAT")]
    pub start_from: Option<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub shape: Shape,
    /// Pass stdin on (always done; here so that `-it` can be typed)
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Working directory
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// User to run as
    #[arg(long, short = 'u', value_name = "USER")]
    pub user: Option<String>,
    /// End the program after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Leave the sandbox running afterwards, and print its id on stderr
    #[arg(long)]
    pub keep: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ShellArgs {
    /// The sandbox; a fresh one when absent, destroyed afterwards
    pub sandbox: Option<SandboxId>,
    #[command(flatten)]
    pub shape: Shape,
    /// Working directory
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// User to run as
    #[arg(long, short = 'u', value_name = "USER")]
    pub user: Option<String>,
    /// Leave a fresh sandbox running afterwards
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    pub sandbox: SandboxId,
    /// Pass stdin on (always done; here so that `-it` can be typed)
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Do not wait: print the pid and let the program go on
    #[arg(long, short = 'd', conflicts_with = "tty")]
    pub detach: bool,
    /// Environment, on top of the sandbox's
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Working directory
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// User to run as
    #[arg(long, short = 'u', value_name = "USER")]
    pub user: Option<String>,
    /// A name to find the process by later
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only these statuses (`stopped` ones are left out otherwise)
    #[arg(long, value_delimiter = ',', value_name = "STATUS")]
    pub status: Vec<SandboxStatus>,
    /// Only those with this label
    #[arg(long, short = 'l', value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Print ids alone
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(required_unless_present = "all")]
    pub sandboxes: Vec<SandboxId>,
    /// All sandboxes of the team
    #[arg(long, conflicts_with = "sandboxes")]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Create a sandbox and print its id
    Create {
        #[command(flatten)]
        shape: Shape,
        /// Idle seconds after which `--on-timeout` acts; 0 for never [default: 0]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// What an idle sandbox comes to: pause or kill [default: pause]
        #[arg(long, value_name = "ACTION")]
        on_timeout: Option<OnTimeout>,
        /// A request to it wakes it when paused
        #[arg(long)]
        auto_resume: bool,
    },
    /// List sandboxes
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one sandbox
    Get { sandbox: SandboxId },
    /// Run a program in a sandbox
    Exec(ExecArgs),
    /// Stand a sandbox still
    Pause { sandbox: SandboxId },
    /// Let a paused sandbox go on
    Resume { sandbox: SandboxId },
    /// Make sandboxes that start from the files that this one has now, and print their ids
    Fork {
        sandbox: SandboxId,
        /// How many, 1 to 100
        #[arg(long, short = 'n', value_name = "N", default_value_t = 1)]
        count: u32,
    },
    /// Replace what a sandbox may reach
    Network {
        sandbox: SandboxId,
        /// Networks and names that may be reached whatever is denied
        #[arg(long, value_name = "CIDR|NAME")]
        allow: Vec<String>,
        /// Networks and names that may not be reached; 0.0.0.0/0 for all but what is allowed
        #[arg(long, value_name = "CIDR|NAME")]
        deny: Vec<String>,
        /// A header that requests over HTTPS to a name get, unseen by the sandbox, in place of its own:
        /// 'api.example.com=Authorization: Bearer ${secrets.NAME}'
        #[arg(long, value_name = "NAME=HEADER")]
        header: Vec<String>,
        /// A SOCKS5 proxy of your own that TCP connections go out through; `tls://` before it to speak TLS with it. The
        /// password of the one that is there needn't be said again
        #[arg(long, value_name = "[USER:PASSWORD@]HOST:PORT")]
        egress_proxy: Option<String>,
        /// Bytes a second that it may send to the world, and as many that it may get from there; `500K` and `10M` are powers
        /// of 1,024
        #[arg(long, value_name = "SIZE", value_parser = super::settings::size)]
        bandwidth: Option<u64>,
        /// Close all ways out
        #[arg(long)]
        no_internet: bool,
    },
    /// Destroy sandboxes
    #[command(visible_alias = "destroy")]
    Rm(RmArgs),
    /// Show what a sandbox's guest agent logged
    Logs {
        sandbox: SandboxId,
        /// Go on with new lines as they come
        #[arg(long, short = 'f')]
        follow: bool,
    },
    /// Show the processes that were started in a sandbox
    Top { sandbox: SandboxId },
    /// Make a link that opens a port of a sandbox to whoever has it
    Link {
        sandbox: SandboxId,
        /// What a program in the sandbox listens on
        port: u16,
        /// Seconds until the link expires [default: 3600]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub struct McpArgs {
    /// Speak HTTP instead of stdio, for many agents with API keys of their own
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:7430")]
    pub http: Option<std::net::SocketAddr>,
    /// A name (or name:port) besides loopback's by which it is reached over HTTP; can be repeated
    #[arg(long, value_name = "HOST", requires = "http")]
    pub allow_host: Vec<String>,
    /// Template of sandboxes whose template isn't named
    #[arg(long, value_name = "NAME", default_value = "code-interpreter")]
    pub template: String,
    /// Leave sandboxes running when the session that made them ends
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct CpArgs {
    /// A local path, `SANDBOX:PATH`, or `-` for stdin
    pub source: String,
    /// A local path, `SANDBOX:PATH`, or `-` for stdout
    pub destination: String,
    /// User whose files they are in the sandbox
    #[arg(long, short = 'u', value_name = "USER")]
    pub user: Option<String>,
}
