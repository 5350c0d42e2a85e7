//! Options of the commands about teams, platform admins' matters and the audit trail.

use atoll_model::api::auth::Role;
use atoll_model::{TeamId, UserId};
use clap::{Args, Subcommand};

use super::accounts::PersonArgs;

#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// List the teams that you are in
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make a team; you become its owner
    Create {
        name: String,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show a team and its people
    Get {
        team: TeamId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Give a team another name
    Rename {
        team: TeamId,
        name: String,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show what new sandboxes of a team may reach when nobody says, or set it: what is left out is cleared
    Network {
        team: TeamId,
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
        /// Bytes a second that each may send to the world, and as many that it may get from there; `500K` and `10M` are
        /// powers of 1,024
        #[arg(long, value_name = "SIZE", value_parser = super::settings::size)]
        bandwidth: Option<u64>,
        /// Close all ways out
        #[arg(long)]
        no_internet: bool,
        /// Everything that is open to all, as before it was ever set
        #[arg(long, conflicts_with_all = ["allow", "deny", "header", "egress_proxy", "bandwidth", "no_internet"])]
        clear: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Delete a team that has no sandboxes, hosts and templates left
    Rm {
        team: TeamId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make somebody who has an account a member
    Add {
        team: TeamId,
        #[arg(id = "member", value_name = "EMAIL")]
        email: String,
        /// owner, admin or member
        #[arg(long, default_value = "member")]
        role: Role,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Give a member another role
    Role {
        team: TeamId,
        user: UserId,
        /// owner, admin or member
        role: Role,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Take a member out of a team
    Remove {
        team: TeamId,
        user: UserId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Leave a team
    Leave {
        team: TeamId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// What your team used per day, and what it has and may have
    Usage {
        #[command(flatten)]
        person: PersonArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List all teams
    Teams {
        /// Part of a name
        search: Option<String>,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// List all people
    Users {
        /// Part of a name or address
        search: Option<String>,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make an account, with a team of its own; prints the link by which its person sets a password
    AddUser {
        #[arg(id = "address", value_name = "EMAIL")]
        email: String,
        name: String,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make a link by which a person sets a new password, good for 3 days and for once
    ResetLink {
        user: UserId,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Let a team bring its own hosts, or not
    Byoc {
        team: TeamId,
        #[arg(value_name = "on|off", value_parser = on_or_off, action = clap::ArgAction::Set)]
        state: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Show what a team has and may have; with options, set all of its limits
    #[command(after_help = "\
Examples:
  atoll admin quota team-…                          what it has and may have
  atoll admin quota team-… --sandboxes 50           that limit; the others are the defaults
  atoll admin quota team-… --defaults               all are the defaults")]
    Quota {
        team: TeamId,
        #[command(flatten)]
        limits: QuotaArgs,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Switch an account on or off
    Active {
        user: UserId,
        #[arg(value_name = "on|off", value_parser = on_or_off, action = clap::ArgAction::Set)]
        state: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
    /// Make a person a platform admin, or no more
    Admin {
        user: UserId,
        #[arg(value_name = "on|off", value_parser = on_or_off, action = clap::ArgAction::Set)]
        state: bool,
        #[command(flatten)]
        person: PersonArgs,
    },
}

#[derive(Debug, Args)]
pub struct QuotaArgs {
    /// Sandboxes that are not stopped
    #[arg(long, value_name = "N")]
    pub sandboxes: Option<u64>,
    /// Virtual CPUs of all together
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u64>,
    /// Memory of all together
    #[arg(long, value_name = "MB")]
    pub memory_mb: Option<u64>,
    /// Disk of all together
    #[arg(long, value_name = "MB")]
    pub disk_mb: Option<u64>,
    /// No limits of its own
    #[arg(long, conflicts_with_all = ["sandboxes", "vcpus", "memory_mb", "disk_mb"])]
    pub defaults: bool,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Part of an action, an id, an address, or of the actor's name
    pub search: Option<String>,
    /// Id of a person, a key or a host
    #[arg(long, value_name = "ID")]
    pub actor: Option<String>,
    /// What was done, `sandbox.create` for example
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// Id of the thing
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// How it ended: ok, failed, or an error code
    #[arg(long, value_name = "RESULT")]
    pub result: Option<String>,
    /// From this moment on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Of every team; for platform admins
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub person: PersonArgs,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("`{other}` is neither on nor off")),
    }
}
