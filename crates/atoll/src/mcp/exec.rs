//! A program in a sandbox that ends when nobody waits for it any more: its call was cancelled.

use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::{ExecRequest, ExecResponse};
use atoll_client::{Client, Error};

/// Runs it to its end.
pub async fn run(client: &Client, id: &SandboxId, request: ExecRequest) -> Result<ExecResponse, Error> {
    let tag = format!("mcp-{:016x}", rand::random::<u64>());
    let request = ExecRequest { tag: Some(tag.clone()), ..request };
    let mut waiting = Waiting { client, id, tag: Some(tag) };
    let answer = client.exec(id, &request).await;
    waiting.tag = None;
    answer
}

/// Dropped with a tag, it ends the program.
struct Waiting<'a> {
    client: &'a Client,
    id: &'a SandboxId,
    tag: Option<String>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (Some(tag), Ok(runtime)) = (self.tag.take(), tokio::runtime::Handle::try_current()) else { return };
        let (client, id) = (self.client.clone(), self.id.clone());
        // That it has ended meanwhile, or is being destroyed with its sandbox, is as good.
        runtime.spawn(async move { drop(client.signal_process(&id, &tag, None).await) });
    }
}
