//! Options of `atoll template`, and of what templates are made with.

use std::path::PathBuf;

use atoll_model::BuildId;
use clap::{Args, Subcommand};

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
