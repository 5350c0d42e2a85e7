//! Options of the commands that talk to a server.

use std::path::PathBuf;

use atoll_model::api::auth::KeyScope;
use atoll_model::{ApiKeyId, BuildId, HostId, HostType, OnTimeout, SandboxId, SandboxStatus, TeamId};
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
pub struct BuildArgs {
    /// Its name, maybe with `:tag`
    pub name: String,
    /// A recipe: a file in the manner of a Dockerfile
    #[arg(long, short = 'f', value_name = "FILE", required_unless_present = "image")]
    pub file: Option<PathBuf>,
    /// An image of a registry in place of a recipe, such as debian:12
    #[arg(long, value_name = "REFERENCE", conflicts_with = "file")]
    pub image: Option<String>,
    /// The directory that COPY takes from [default: the recipe's]
    #[arg(long, value_name = "DIR")]
    pub context: Option<PathBuf>,
    /// Account at the image's registry; the password is ATOLL_REGISTRY_PASSWORD
    #[arg(long, value_name = "NAME")]
    pub registry_user: Option<String>,
    /// Run at each start of a sandbox
    #[arg(long, value_name = "COMMAND")]
    pub start: Option<String>,
    /// Asked until it succeeds
    #[arg(long, value_name = "COMMAND")]
    pub ready: Option<String>,
    /// What its sandboxes run in: container, vm or auto [default: as what it is built from]
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// With --driver vm: sandboxes go on with the memory of a machine that is started at the end of the build
    #[arg(long)]
    pub keep_memory: bool,
    /// Virtual CPUs of its sandboxes
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Their memory in MB
    #[arg(long, value_name = "MB")]
    pub memory: Option<u64>,
    /// Their disk quota in MB
    #[arg(long, value_name = "MB")]
    pub disk: Option<u64>,
    /// Build every step anew
    #[arg(long)]
    pub force: bool,
    /// Do not wait: print the build's id
    #[arg(long, short = 'd')]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Build a template and show how it goes
    Build(Box<BuildArgs>),
    /// List templates
    #[command(visible_alias = "ls")]
    List,
    /// Show one template
    Get { name: String },
    /// Let every team of this Atoll make sandboxes from a template, by its id or as SLUG/NAME: what is in it, too
    Publish { name: String },
    /// Make a template the team's alone again; sandboxes that others have made from it live on
    Unpublish { name: String },
    /// Delete templates; sandboxes that were made from them live on
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show a build's log to its end; the newest build's when none is named
    Logs { name: String, build: Option<BuildId> },
    /// End a build that is under way
    Cancel { name: String, build: BuildId },
    /// Build a template that ships with Atoll on this machine ahead of its first use; needs root, and no server
    #[command(after_help = "\
Examples:
  atoll template prepare                          the code interpreter
  ATOLL_INTERPRETER_WITH=none atoll template prepare      the same without R and Java; start the server with it, too

The image lands in the cache that all Atolls of this machine share; a server finds it there when somebody
first makes a sandbox from the template.")]
    Prepare(PrepareArgs),
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The template
    #[arg(default_value = "code-interpreter", value_parser = ["base", "code-interpreter"])]
    pub name: String,
    #[command(flatten)]
    pub interpreter: InterpreterArgs,
    /// Template images, shared by all Atolls of this machine
    #[arg(long, env = "ATOLL_CACHE_DIR", value_name = "DIR", default_value_os_t = super::settings::default_cache_dir())]
    pub cache_dir: PathBuf,
}

/// What the code interpreter is made with.
#[derive(Debug, Clone, Default, Args)]
pub struct InterpreterArgs {
    /// Further languages of the code interpreter's template: r and java (0.3 GB), one of them, or none
    #[arg(long, env = "ATOLL_INTERPRETER_WITH", value_name = "PARTS", value_delimiter = ',', default_value = "r,java")]
    pub interpreter_with: Vec<String>,
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

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep a sandbox's files under a name; `--template NAME` makes sandboxes from it
    Create {
        sandbox: SandboxId,
        /// Lower-case letters, digits and hyphens; made up when absent
        name: Option<String>,
        /// Take the place of a snapshot of that name
        #[arg(long)]
        overwrite: bool,
        /// Keep its processes too: for virtual machines
        #[arg(long)]
        memory: bool,
    },
    /// List snapshots
    #[command(visible_alias = "ls")]
    List,
    /// Show one snapshot
    Get { name: String },
    /// Delete snapshots; sandboxes that were made from them live on
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Keep a value: from --file, from stdin, or asked for
    Set {
        /// Letters, digits, `_`, `-` and `.`
        name: String,
        /// Where the value is; `-` for stdin
        #[arg(long, short = 'f', value_name = "FILE")]
        file: Option<PathBuf>,
        /// Take the place of the one of that name
        #[arg(long)]
        overwrite: bool,
    },
    /// List secrets, without their values
    #[command(visible_alias = "ls")]
    List,
    /// Delete secrets; sandboxes that have them keep them
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume
    Create {
        /// Lower-case letters, digits and hyphens
        name: String,
        /// What it may hold, in MB [default: 1024]
        #[arg(long, value_name = "MB")]
        size: Option<u64>,
        /// One sandbox at a time
        #[arg(long)]
        exclusive: bool,
    },
    /// List volumes
    #[command(visible_alias = "ls")]
    List,
    /// Show one volume
    Get { name: String },
    /// Delete volumes with their files; refused while sandboxes have them mounted
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
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

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; it is shown once
    Create {
        /// What it is for
        name: String,
        /// What it may do: all, sandboxes (and what is in them), or read
        #[arg(long, value_name = "SCOPE", default_value = "all")]
        scope: KeyScope,
        /// Refused after so long, `30days` for example; never when absent
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<std::time::Duration>,
        /// Print it in the form that E2B's SDKs take (`e2b_…`)
        #[arg(long)]
        e2b: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// List keys
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Delete keys
    Rm {
        #[arg(required = true)]
        keys: Vec<ApiKeyId>,
        #[command(flatten)]
        person: PersonArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// List hosts
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show one host, as JSON
    Get {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make a host; its registration token is shown once
    Create {
        /// Made up when absent
        #[arg(long)]
        name: Option<String>,
        /// regular (the platform's) or byoc (a team's own)
        #[arg(long = "type", value_name = "TYPE", default_value = "regular")]
        kind: HostType,
        /// The team that a byoc host is for
        #[arg(long, value_name = "TEAM")]
        team: Option<TeamId>,
        /// Where it stands, for people
        #[arg(long)]
        provider: Option<String>,
        /// Its availability zone, for people
        #[arg(long)]
        zone: Option<String>,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// A new registration token, for a host that is pending or has lost its credentials
    Token {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Let nothing new land on a host; what is paused on it moves to others, with its files alone
    Drain {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show what is still on a host that is drained, and what each sandbox waits for
    DrainStatus {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Let sandboxes land on it again
    Undrain {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show what a forced deletion would destroy
    DeletePreview {
        host: HostId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Delete a host; refused while sandboxes are on it
    #[command(visible_alias = "rm")]
    Delete {
        host: HostId,
        /// Destroy its sandboxes with it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
}

/// Who asks, where an API key is not enough.
#[derive(Debug, Clone, Args)]
pub struct PersonArgs {
    /// Your account; on the machine of `atoll up` its admin when absent
    #[arg(long, env = "ATOLL_EMAIL")]
    pub email: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atoll login --url https://atoll.example                            shows a code; a browser lets you in
  atoll login --url https://atoll.example --email me@example.com     asks for the password and makes a key
  atoll login --url https://atoll.example --key-file ./key           stores a key that you have
  echo \"$KEY\" | atoll login --url https://atoll.example --key-file -")]
pub struct LoginArgs {
    /// Your account; the password is asked for, or read from ATOLL_PASSWORD
    #[arg(long, conflicts_with = "key_file")]
    pub email: Option<String>,
    /// Ask for an API key that you have
    #[arg(long, conflicts_with_all = ["email", "key_file"])]
    pub key: bool,
    /// A file with an API key, or `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}
