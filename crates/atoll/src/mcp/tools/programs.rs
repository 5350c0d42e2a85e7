//! Programs in sandboxes: code that remembers, and commands.

use atoll_client::model::api::sandboxes::ExecRequest;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};

use super::{Tools, attempt, sandbox};
use crate::mcp::answers::{Answer, failed, refused, said, section, so_far, text_of};
use crate::mcp::arguments::{RunCode, RunCommand};
use crate::mcp::{exec, interpreter};

const DEFAULT_SECONDS: u64 = 60;
const MAX_SECONDS: u64 = 3600;

#[tool_router(router = programs, vis = "pub(super)")]
impl Tools {
    #[tool(
        description = "Run code in a sandbox and see what it prints, shows and ends with. Variables stay for the next \
                       call in the same language.",
        annotations(read_only_hint = false, destructive_hint = true, open_world_hint = true)
    )]
    async fn run_code(&self, Parameters(asked): Parameters<RunCode>, context: RequestContext<RoleServer>) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let seconds = attempt!(seconds(asked.timeout_sec));
        interpreter::run(&client, &id, &asked.code, asked.language.as_deref().unwrap_or("python"), seconds).await
    }

    #[tool(
        description = "Run a shell command in a sandbox; answers its exit code and output.",
        annotations(read_only_hint = false, destructive_hint = true, open_world_hint = true)
    )]
    async fn run_command(
        &self,
        Parameters(asked): Parameters<RunCommand>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let seconds = attempt!(seconds(asked.timeout_sec));
        let request = ExecRequest {
            cmd: "/bin/bash".to_owned(),
            args: vec!["-l".to_owned(), "-c".to_owned(), asked.command],
            cwd: asked.cwd,
            env: asked.env,
            user: asked.user,
            timeout_sec: (!asked.background).then_some(seconds),
            background: asked.background,
            tag: None,
        };
        if asked.background {
            let started = client.exec_background(&id, &request).await;
            let started = attempt!(started.map_err(|error| refused(&error)));
            return said(format!("started with pid {}\n", started.pid));
        }
        match exec::run(&client, &id, request).await {
            Ok(answer) => {
                let stdout = section("stdout", &text_of(&answer.stdout, answer.encoding));
                let stderr = section("stderr", &text_of(&answer.stderr, answer.encoding));
                let text = format!("exit code {}\n{stdout}{stderr}", answer.exit_code);
                if answer.exit_code == 0 { said(text) } else { failed(text) }
            }
            Err(error) => match so_far(&error) {
                Some((stdout, stderr)) => failed(format!(
                    "{}\n{}{}",
                    refused(&error),
                    section("stdout until then", &stdout),
                    section("stderr until then", &stderr)
                )),
                None => failed(refused(&error)),
            },
        }
    }
}

fn seconds(asked: Option<u64>) -> Result<u64, String> {
    match asked.unwrap_or(DEFAULT_SECONDS) {
        seconds @ 1..=MAX_SECONDS => Ok(seconds),
        other => Err(format!("timeout_sec must be between 1 and {MAX_SECONDS}, not {other}")),
    }
}
