//! `atoll mcp`: sandboxes as tools for agents, by the Model Context Protocol, over stdio or HTTP.
//!
//! `tools` is what an agent can do, `arguments` what it says to do it, `answers` what it is told; `session` knows the
//! sandboxes that it made, which end with it; `interpreter` runs code in them, `exec` programs; `http` lets several agents in, and `gate`
//! asks each for a key. All of it is a client of the REST API like any other: nothing here can do what the caller's key
//! can't. Stdout belongs to the protocol: whatever is for people goes to stderr.

mod answers;
mod arguments;
mod exec;
mod gate;
mod http;
mod interpreter;
mod session;
mod tools;

use std::time::Duration;

use anyhow::Context;
use atoll_client::{Auth, Client};
use rmcp::ServiceExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::cli::Global;
use crate::cli::sandboxes::McpArgs;
use session::{Session, Settings};
use tools::Tools;

/// How long the end of sessions, and of their sandboxes, may take.
const DRAIN: Duration = Duration::from_secs(20);

pub async fn main(args: McpArgs, global: &Global) -> anyhow::Result<u8> {
    let client = crate::client::client(global)?;
    let settings = Settings { template: args.template, keep: args.keep };
    match args.http {
        None => stdio(client, settings).await?,
        // Only whose server it is: what proves a caller comes with each request.
        Some(address) => http::serve(address, args.allow_host, client.with_auth(Auth::Nobody), settings).await?,
    }
    Ok(0)
}

/// One agent, in whose name everything is done. The session ends with its input, or on a signal.
async fn stdio(client: Client, settings: Settings) -> anyhow::Result<()> {
    let endings = TaskTracker::new();
    let tools = Tools::for_one(Session::new(settings, endings.clone()), client);
    let asked_to_end = signals()?;
    let serving = async {
        let service = tools.serve(rmcp::transport::stdio()).await.context("the agent did not begin a conversation")?;
        service.waiting().await.context("the conversation with the agent broke off")?;
        anyhow::Ok(())
    };
    let result = tokio::select! {
        result = serving => result,
        () = asked_to_end => Ok(()),
    };
    ended(endings).await;
    result
}

/// Waits until the sessions that are over have ended what they made.
async fn ended(endings: TaskTracker) {
    endings.close();
    if tokio::time::timeout(DRAIN, endings.wait()).await.is_err() {
        eprintln!("atoll: sandboxes of ended sessions are left; they end when they have been idle for a while");
    }
}

/// Ends when somebody asks the process to end.
fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
