//! The tools: what an agent can do with sandboxes. `lives`, `programs` and `files` have them; here is what they share: in
//! whose name a call is done, how many are done at once, and when one ends early.

mod files;
mod lives;
mod programs;

use atoll_client::Client;
use atoll_client::model::SandboxId;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, Implementation, InitializeRequestParams, InitializeResult,
    ProtocolVersion, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, tool_handler};

use super::answers::failed;
use super::gate::{Caller, Seats};
use super::session::{MAX_CALLS, Session};

const INSTRUCTIONS: &str = "\
Isolated Linux sandboxes for code that nobody has read. Begin with create_sandbox; it answers an id that every other tool \
takes. run_code keeps variables between calls (python, javascript, typescript, bash); run_command runs a shell command. \
Programs that listen on a port are reached by preview_url. Destroy sandboxes when you are done with them.";

/// The tools of one session.
#[derive(Clone)]
pub struct Tools {
    session: Session,
    client: Client,
    /// Where each request brings the key in whose name it is done.
    seats: Option<Seats>,
    tool_router: ToolRouter<Self>,
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

use attempt;

impl Tools {
    /// For one agent, in whose name everything is done.
    pub fn for_one(session: Session, client: Client) -> Self {
        Self { session, client, seats: None, tool_router: Self::lives() + Self::programs() + Self::files() }
    }

    /// For one of many: each of its requests brings a key, and `client` only says whose server it is.
    pub fn for_one_of_many(session: Session, client: Client, seats: Seats) -> Self {
        Self { seats: Some(seats), ..Self::for_one(session, client) }
    }

    fn client(&self, context: &RequestContext<RoleServer>) -> Result<Client, ErrorData> {
        if self.seats.is_none() {
            return Ok(self.client.clone());
        }
        if !self.session.has_seat() {
            return Err(ErrorData::invalid_request("sandboxes live in sessions: begin one with initialize", None));
        }
        Ok(self.client.with_auth(caller(context)?.auth()))
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("atoll", env!("CARGO_PKG_VERSION")).with_title("Atoll"))
            .with_instructions(INSTRUCTIONS)
    }

    /// Those with sessions: sandboxes end with them. Newer clients begin one as well when this is what they are offered.
    fn supported_protocol_versions(&self) -> std::borrow::Cow<'static, [ProtocolVersion]> {
        ProtocolVersion::known_up_to(&ProtocolVersion::LATEST_WITH_INITIALIZE).into()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        if let Some(seats) = &self.seats {
            let seat = seats.take(&caller(&context)?).map_err(|full| ErrorData::invalid_request(full, None))?;
            self.session.seated(seat);
        }
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    /// A call ends when it is cancelled, and when its session does.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(_room) = self.session.call() else {
            return Ok(failed(format!("{MAX_CALLS} calls are under way already\nNext: wait for one of them"))?.into());
        };
        let cancelled = context.ct.clone();
        let call = self.tool_router.call(ToolCallContext::new(self, request, context));
        tokio::select! {
            answer = call => answer,
            () = cancelled.cancelled() => Err(ErrorData::internal_error("the call was cancelled", None)),
        }
    }
}

/// Who a request over HTTP came from.
fn caller(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    let parts = context.extensions.get::<http::request::Parts>();
    let caller = parts.and_then(|parts| parts.extensions.get::<Caller>());
    caller.cloned().ok_or_else(|| ErrorData::internal_error("the request has lost its caller", None))
}

fn sandbox(id: &str) -> Result<SandboxId, String> {
    id.trim().parse().map_err(|_| {
        format!(
            "`{id}` is not the id of a sandbox\nNext: create_sandbox answers one, list_sandboxes shows those there are"
        )
    })
}
