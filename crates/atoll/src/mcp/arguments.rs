//! What an agent says to use a tool. The texts are what its model reads of them.

use std::collections::BTreeMap;

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Template to make it from: `code-interpreter` (run_code works in it), `base`, or one of the team's.
    pub template: Option<String>,
    /// Memory in MB; 512 unless said otherwise.
    pub memory_mb: Option<u64>,
    /// Virtual CPUs; 1 unless said otherwise.
    pub vcpus: Option<u32>,
    /// Whether programs in it may reach the internet. True unless said otherwise.
    pub internet: Option<bool>,
    /// Environment of its programs.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds without use after which it is destroyed; 3600 unless said otherwise.
    pub timeout_sec: Option<u64>,
    /// Leave it running when this session ends, until it is destroyed.
    #[serde(default)]
    pub keep: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCode {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// What to run. The value of the last line is shown, as are figures of matplotlib.
    pub code: String,
    /// `python` (default), `javascript`, `typescript` or `bash`.
    pub language: Option<String>,
    /// Seconds until it is ended; 60 unless said otherwise, at most 3600.
    pub timeout_sec: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// A command line for bash.
    pub command: String,
    /// Working directory; the user's home unless said otherwise.
    pub cwd: Option<String>,
    /// `user` (default; may use sudo) or `root`.
    pub user: Option<String>,
    /// Environment, on top of the sandbox's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds until it is ended; 60 unless said otherwise, at most 3600.
    pub timeout_sec: Option<u64>,
    /// Don't wait for its end: for servers. Its output goes where the command sends it.
    #[serde(default)]
    pub background: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// Absolute, or relative to the user's home.
    pub path: String,
    /// The line of a text to begin with; 1 unless said otherwise.
    pub first_line: Option<usize>,
    /// How many lines to read; as many as fit into an answer unless said otherwise.
    pub lines: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// Absolute, or relative to the user's home. Missing directories are made.
    pub path: String,
    /// The file's new content: a text, or base64 when `base64` is set.
    pub content: String,
    /// The content is base64, for files that are no text.
    #[serde(default)]
    pub base64: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFiles {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// A directory.
    pub path: String,
    /// How many levels down; 1 unless said otherwise.
    pub depth: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewUrl {
    /// The sandbox's id, `sb-…`.
    pub sandbox_id: String,
    /// What a program in it listens on, on any address.
    pub port: u16,
    /// Seconds until the address expires; 3600 unless said otherwise.
    pub ttl_sec: Option<u64>,
}
