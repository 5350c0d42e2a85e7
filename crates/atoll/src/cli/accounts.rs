//! Options of the commands for keys and hosts, and of whoever asks.

use std::path::PathBuf;

use atoll_model::api::auth::KeyScope;
use atoll_model::{ApiKeyId, HostId, HostType, TeamId};
use clap::{Args, Subcommand};

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
