//! `atoll mcp`: sandboxes as tools for agents, by the Model Context Protocol, over stdio or HTTP.
//!
//! `tools` is what an agent can do; `session` knows the sandboxes that it made, which end with it; `interpreter` runs code
//! in them; `http` lets several agents in, each with a key of its own. All of it is a client of the REST API like any
//! other: nothing here can do what the caller's key can't.

mod http;
mod interpreter;
mod session;
mod tools;

use anyhow::Context;
use rmcp::ServiceExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Global;
use crate::cli::client::McpArgs;
use session::{Session, Settings};
use tools::Tools;

pub async fn main(args: McpArgs, global: &Global) -> anyhow::Result<u8> {
    let settings = Settings { template: args.template, keep: args.keep };
    match args.http {
        None => stdio(crate::client::client(global)?, settings).await?,
        Some(address) => {
            // Whose server it is; the key of each request is its caller's.
            let client = crate::client::client(global)?;
            http::serve(address, &args.allow_host, client, settings).await?;
        }
    }
    Ok(0)
}

/// One agent, in whose name everything is done. The session ends with its input, or on a signal.
async fn stdio(client: atoll_client::Client, settings: Settings) -> anyhow::Result<()> {
    let session = Session::new(settings);
    let asked_to_end = signals()?;
    let serving = async {
        let service = Tools::for_one(session.clone(), client).serve(rmcp::transport::stdio()).await?;
        service.waiting().await?;
        anyhow::Ok(())
    };
    let result = tokio::select! {
        result = serving => result.context("the conversation with the agent broke off"),
        () = asked_to_end => Ok(()),
    };
    session.end().await;
    result
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
