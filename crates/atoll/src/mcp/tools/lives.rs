//! Sandboxes' lives: made, listed, reached from outside, destroyed.

use std::collections::BTreeMap;

use atoll_client::ListSandboxes;
use atoll_client::model::OnTimeout;
use atoll_client::model::api::sandboxes::{CreateSandboxRequest, LinkRequest};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};

use super::{Tools, attempt, sandbox};
use crate::mcp::answers::{Answer, failed, listed, refused, said};
use crate::mcp::arguments::{Create, Named, PreviewUrl};

/// A sandbox ends by itself after so many seconds without use, also when nobody is left to end it.
const IDLE_SECONDS: u64 = 3600;

#[tool_router(router = lives, vis = "pub(super)")]
impl Tools {
    #[tool(
        description = "Create a sandbox: an isolated Linux machine with Python, Node.js, git, curl and apt, in which \
                       sudo needs no password. Answers its id.",
        annotations(read_only_hint = false, destructive_hint = false, open_world_hint = false)
    )]
    async fn create_sandbox(
        &self,
        Parameters(asked): Parameters<Create>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let client = self.client(&context)?;
        let keep = asked.keep || self.session.settings().keep;
        let idle = asked.timeout_sec.or((!keep).then_some(IDLE_SECONDS));
        let request = CreateSandboxRequest {
            template: Some(asked.template.unwrap_or_else(|| self.session.settings().template.clone())),
            memory_mb: asked.memory_mb,
            vcpus: asked.vcpus,
            internet: asked.internet,
            env: asked.env,
            metadata: BTreeMap::from([("made-by".to_owned(), "atoll mcp".to_owned())]),
            timeout_sec: idle,
            on_timeout: idle.map(|_| OnTimeout::Kill),
            ..CreateSandboxRequest::default()
        };
        let made = self.session.create(client, request, keep).await;
        let sandbox = attempt!(made.map_err(|error| refused(&error)));
        let mut text = format!(
            "{}\ntemplate {}, {} vcpus, {} MB of memory",
            sandbox.id, sandbox.template, sandbox.vcpus, sandbox.memory_mb
        );
        if let Some(seconds) = idle.filter(|&seconds| seconds > 0) {
            text += &format!("; destroyed after {seconds} s without use");
        }
        text += if keep { "; it stays when this session ends\n" } else { "; destroyed when this session ends\n" };
        said(text)
    }

    #[tool(
        description = "List the team's sandboxes that are not stopped: their ids, what they are, and whether they end \
                       with this session.",
        annotations(read_only_hint = true, open_world_hint = false)
    )]
    async fn list_sandboxes(&self, context: RequestContext<RoleServer>) -> Answer {
        let client = self.client(&context)?;
        let page = client.list_sandboxes(&ListSandboxes::default()).await;
        let page = attempt!(page.map_err(|error| refused(&error)));
        let lines = page.items.iter().map(|it| {
            let ours = if self.session.owns(&it.id) { " (of this session)" } else { "" };
            format!("{} {} {}{ours}\n", it.id, it.status.as_str(), it.template)
        });
        let mut text = listed(lines, "the dashboard shows them all");
        if page.next_cursor.is_some() {
            text.push_str("… and more; the dashboard shows them all\n");
        }
        said(text)
    }

    #[tool(
        description = "The address at which a browser reaches a port of a sandbox, for a while, for whoever has it.",
        annotations(read_only_hint = false, destructive_hint = false, open_world_hint = true)
    )]
    async fn preview_url(
        &self,
        Parameters(asked): Parameters<PreviewUrl>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let link = client.link(&id, &LinkRequest { port: asked.port, ttl_sec: asked.ttl_sec }).await;
        let link = attempt!(link.map_err(|error| refused(&error)));
        said(format!("{}\n", link.url))
    }

    #[tool(
        description = "Destroy a sandbox with all that is in it.",
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn destroy_sandbox(
        &self,
        Parameters(asked): Parameters<Named>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        attempt!(client.destroy_sandbox(&id).await.map_err(|error| refused(&error)));
        self.session.forget(&id);
        said("destroyed\n")
    }
}
