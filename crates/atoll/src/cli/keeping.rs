//! Options of the commands for what outlives sandboxes: snapshots, secrets, volumes.

use std::path::PathBuf;

use atoll_model::SandboxId;
use clap::Subcommand;

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
