//! The tools: what an agent can do with sandboxes. What goes wrong is an answer that the agent can read, too.

use std::collections::BTreeMap;

use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::{
    CreateSandboxRequest, Encoding, ExecRequest, ExecResponse, LinkRequest, ListFilesRequest,
};
use atoll_client::{Client, ListSandboxes};
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, Implementation, ProtocolVersion, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;

use super::http::Caller;
use super::interpreter::{self, shortened};
use super::session::Session;

/// A sandbox that a session leaves behind ends by itself after so many idle seconds.
const IDLE_SECONDS: u64 = 1800;
const MAX_FILE: usize = 4 << 20;
const DEFAULT_SECONDS: u64 = 60;
const MAX_SECONDS: u64 = 3600;

const INSTRUCTIONS: &str = "\
Isolated Linux sandboxes for code that nobody has read. Begin with create_sandbox; it answers an id that every other tool \
takes. run_code keeps variables between calls (python, javascript, typescript, bash); run_command runs a shell command. \
Programs that listen on a port are reached by preview_url. Destroy sandboxes when you are done with them.";

#[derive(Deserialize, schemars::JsonSchema)]
struct Create {
    /// Template to make it from: `code-interpreter` (run_code works in it), `base`, or one of the team's.
    template: Option<String>,
    /// Memory in MB.
    memory_mb: Option<u64>,
    /// Virtual CPUs.
    vcpus: Option<u32>,
    /// Whether programs in it may reach the internet. True unless said otherwise.
    internet: Option<bool>,
    /// Environment of its programs.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Leave it running when this conversation ends.
    #[serde(default)]
    keep: bool,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Named {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct RunCode {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// What to run. The value of the last line is shown, as are figures of matplotlib.
    code: String,
    /// `python` (default), `javascript`, `typescript` or `bash`.
    language: Option<String>,
    /// Seconds until it is ended; 60 unless said otherwise, at most 3600.
    timeout_sec: Option<u64>,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct RunCommand {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// A command line for bash.
    command: String,
    /// Working directory; the user's home unless said otherwise.
    cwd: Option<String>,
    /// `user` (default; may use sudo) or `root`.
    user: Option<String>,
    /// Environment, on top of the sandbox's.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Seconds until it is ended; 60 unless said otherwise, at most 3600.
    timeout_sec: Option<u64>,
    /// Don't wait for its end: for servers. Its output goes where the command sends it.
    #[serde(default)]
    background: bool,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct ReadFile {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// Absolute, or relative to the user's home.
    path: String,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct WriteFile {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// Absolute, or relative to the user's home. Missing directories are made.
    path: String,
    /// The file's new content: a text, or base64 when `base64` is set.
    content: String,
    /// The content is base64, for files that are no text.
    #[serde(default)]
    base64: bool,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct ListFiles {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// A directory.
    path: String,
    /// How many levels down: 1 (default) to 32.
    depth: Option<u32>,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct PreviewUrl {
    /// The sandbox's id, `sb-…`.
    sandbox_id: String,
    /// What a program in it listens on.
    port: u16,
    /// Seconds until the address expires; 3600 unless said otherwise.
    ttl_sec: Option<u64>,
}

/// The tools of one session.
#[derive(Clone)]
pub struct Tools {
    session: Session,
    client: Client,
    /// Whether each request brings the key in whose name it is done.
    many: bool,
    tool_router: ToolRouter<Self>,
}

/// What a tool ends with: an answer either way.
type Answer = Result<CallToolResult, ErrorData>;

fn said(text: impl Into<String>) -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

fn failed(problem: impl std::fmt::Display) -> Answer {
    Ok(CallToolResult::error(vec![ContentBlock::text(problem.to_string())]))
}

/// The value, or the tool's answer.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(problem) => return failed(problem),
        }
    };
}

#[tool_router]
impl Tools {
    /// For one agent, in whose name everything is done.
    pub fn for_one(session: Session, client: Client) -> Self {
        Self { session, client, many: false, tool_router: Self::tool_router() }
    }

    /// For one of many: each of its requests brings a key.
    pub fn for_one_of_many(session: Session, client: Client) -> Self {
        Self { many: true, ..Self::for_one(session, client) }
    }

    fn client(&self, context: &RequestContext<RoleServer>) -> Result<Client, ErrorData> {
        if !self.many {
            return Ok(self.client.clone());
        }
        let parts = context.extensions.get::<http::request::Parts>();
        let caller = parts.and_then(|parts| parts.extensions.get::<Caller>());
        caller
            .map(|caller| self.client.with_auth(caller.auth()))
            .ok_or_else(|| ErrorData::internal_error("the request has lost its caller", None))
    }

    #[tool(description = "Create a sandbox: an isolated Linux machine. Answers its id.")]
    async fn create_sandbox(
        &self,
        Parameters(asked): Parameters<Create>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let client = self.client(&context)?;
        let keep = asked.keep || self.session.settings().keep;
        let request = CreateSandboxRequest {
            template: Some(asked.template.unwrap_or_else(|| self.session.settings().template.clone())),
            memory_mb: asked.memory_mb,
            vcpus: asked.vcpus,
            internet: asked.internet,
            env: asked.env,
            metadata: BTreeMap::from([("made-by".to_owned(), "atoll mcp".to_owned())]),
            timeout_sec: (!keep).then_some(IDLE_SECONDS),
            ..CreateSandboxRequest::default()
        };
        let sandbox = attempt!(client.create_sandbox(&request).await);
        if !keep {
            self.session.adopt(sandbox.id.clone(), client);
        }
        said(format!("{}\n", sandbox.id))
    }

    #[tool(
        description = "Run code in a sandbox and see what it prints, shows and ends with. Variables stay for the next \
                          call in the same language."
    )]
    async fn run_code(&self, Parameters(asked): Parameters<RunCode>, context: RequestContext<RoleServer>) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let seconds = attempt!(seconds(asked.timeout_sec));
        let language = asked.language.as_deref().unwrap_or("python");
        match attempt!(interpreter::run(&client, &id, &asked.code, language, seconds).await) {
            Ok(outcome) if outcome.failed => Ok(CallToolResult::error(outcome.content)),
            Ok(outcome) => Ok(CallToolResult::success(outcome.content)),
            Err(problem) => failed(problem),
        }
    }

    #[tool(description = "Run a shell command in a sandbox; answers its exit code and output.")]
    async fn run_command(
        &self,
        Parameters(asked): Parameters<RunCommand>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let request = ExecRequest {
            cmd: "/bin/bash".to_owned(),
            args: vec!["-l".to_owned(), "-c".to_owned(), asked.command],
            cwd: asked.cwd,
            env: asked.env,
            user: asked.user,
            timeout_sec: if asked.background { None } else { Some(attempt!(seconds(asked.timeout_sec))) },
            background: asked.background,
            tag: None,
        };
        if asked.background {
            let started = attempt!(client.exec_background(&id, &request).await);
            return said(format!("started with pid {}\n", started.pid));
        }
        let answer = attempt!(client.exec(&id, &request).await);
        let text = format!(
            "exit code {}\n{}{}",
            answer.exit_code,
            section("stdout", &output(&answer, &answer.stdout)),
            section("stderr", &output(&answer, &answer.stderr))
        );
        if answer.exit_code == 0 { said(text) } else { failed(text) }
    }

    #[tool(description = "Read a file of a sandbox. Pictures are shown; other files that are no text come as base64.")]
    async fn read_file(&self, Parameters(asked): Parameters<ReadFile>, context: RequestContext<RoleServer>) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let mut file = attempt!(client.read_file(&id, &asked.path, None).await);
        let mut bytes = Vec::new();
        while let Some(piece) = futures::StreamExt::next(&mut file).await {
            bytes.extend_from_slice(&attempt!(piece));
            if bytes.len() > MAX_FILE {
                return failed(format!(
                    "{} is larger than {} MB; read a part of it with run_command",
                    asked.path,
                    MAX_FILE >> 20
                ));
            }
        }
        let picture = match bytes.as_slice() {
            [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
            [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
            _ => None,
        };
        if let Some(kind) = picture {
            return Ok(CallToolResult::success(vec![ContentBlock::image(base64(&bytes), kind)]));
        }
        match String::from_utf8(bytes) {
            Ok(text) => said(shortened(&text)),
            Err(binary) => said(base64(binary.as_bytes())),
        }
    }

    #[tool(description = "Write a file in a sandbox; what was there is replaced.")]
    async fn write_file(
        &self,
        Parameters(asked): Parameters<WriteFile>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let bytes = if asked.base64 {
            use base64::Engine as _;
            attempt!(base64::engine::general_purpose::STANDARD.decode(asked.content.trim()))
        } else {
            asked.content.into_bytes()
        };
        let length = bytes.len();
        attempt!(client.write_file_bytes(&id, &asked.path, bytes).await);
        said(format!("{length} bytes written to {}\n", asked.path))
    }

    #[tool(description = "List a directory of a sandbox.")]
    async fn list_files(
        &self,
        Parameters(asked): Parameters<ListFiles>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let request = ListFilesRequest { path: asked.path, depth: asked.depth, user: None };
        let files = attempt!(client.list_files(&id, &request).await);
        let lines = files.iter().map(|file| {
            let kind = serde_json::to_value(file.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
            format!("{:9} {:>12} {}\n", kind.unwrap_or_default(), file.size_bytes, file.path)
        });
        said(shortened(&lines.collect::<String>()))
    }

    #[tool(
        description = "The address at which a browser reaches a port of a sandbox, for a while, for whoever has it."
    )]
    async fn preview_url(
        &self,
        Parameters(asked): Parameters<PreviewUrl>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let link = attempt!(client.link(&id, &LinkRequest { port: asked.port, ttl_sec: asked.ttl_sec }).await);
        said(format!("{}\n", link.url))
    }

    #[tool(description = "List the team's sandboxes.")]
    async fn list_sandboxes(&self, context: RequestContext<RoleServer>) -> Answer {
        let client = self.client(&context)?;
        let page = attempt!(client.list_sandboxes(&ListSandboxes::default()).await);
        let lines = page.items.iter().map(|it| format!("{} {} {}\n", it.id, it.status.as_str(), it.template));
        said(lines.collect::<String>())
    }

    #[tool(description = "Destroy a sandbox with all that is in it.")]
    async fn destroy_sandbox(
        &self,
        Parameters(asked): Parameters<Named>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        attempt!(client.destroy_sandbox(&id).await);
        self.session.forget(&id);
        said("destroyed\n")
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("atoll", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    /// Those with sessions: sandboxes end with them.
    fn supported_protocol_versions(&self) -> std::borrow::Cow<'static, [ProtocolVersion]> {
        ProtocolVersion::known_up_to(&ProtocolVersion::LATEST_WITH_INITIALIZE).into()
    }
}

fn sandbox(id: &str) -> Result<SandboxId, String> {
    id.trim().parse().map_err(|_| format!("`{id}` is not the id of a sandbox; create_sandbox answers one"))
}

fn seconds(asked: Option<u64>) -> Result<u64, String> {
    match asked.unwrap_or(DEFAULT_SECONDS) {
        seconds @ 1..=MAX_SECONDS => Ok(seconds),
        other => Err(format!("timeout_sec must be between 1 and {MAX_SECONDS}, not {other}")),
    }
}

/// Output as text; what is no text came as base64 and is left so.
fn output(answer: &ExecResponse, stream: &str) -> String {
    match answer.encoding {
        Encoding::Base64 if !stream.is_empty() => format!("(base64) {stream}"),
        _ => stream.to_owned(),
    }
}

fn section(name: &str, text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("--- {name} ---\n{}\n", shortened(text.trim_end_matches('\n')))
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
