//! Files of sandboxes: read by pages, written whole, listed.

use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::ListFilesRequest;
use atoll_client::{Client, Error};
use futures::StreamExt;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};

use super::{Tools, attempt, sandbox};
use crate::mcp::answers::{Answer, MAX_TEXT, base64, failed, from_base64, listed, page, refused, said};
use crate::mcp::arguments::{ListFiles, ReadFile, WriteFile};

const MAX_FILE: usize = 4 << 20;

#[tool_router(router = files, vis = "pub(super)")]
impl Tools {
    #[tool(
        description = "Read a file of a sandbox: a text by its lines; pictures are shown; other files that are no text \
                       come as base64 when they are small.",
        annotations(read_only_hint = true, open_world_hint = false)
    )]
    async fn read_file(&self, Parameters(asked): Parameters<ReadFile>, context: RequestContext<RoleServer>) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let bytes = attempt!(file(&client, &id, &asked.path).await);
        if let Some(kind) = picture(&bytes) {
            return Ok(CallToolResult::success(vec![ContentBlock::image(base64(&bytes), kind)]));
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                let (shown, note) = page(&text, asked.first_line.unwrap_or(1), asked.lines.unwrap_or(usize::MAX));
                let blocks = [Some(shown.to_owned()), note];
                Ok(CallToolResult::success(blocks.into_iter().flatten().map(ContentBlock::text).collect()))
            }
            Err(binary) if binary.as_bytes().len() <= MAX_TEXT * 3 / 4 => {
                let blocks = [base64(binary.as_bytes()), "(no text: its bytes as base64)".to_owned()];
                Ok(CallToolResult::success(blocks.map(ContentBlock::text).to_vec()))
            }
            Err(binary) => failed(format!(
                "{} is no text, and its {} bytes are too many to show\nNext: look into it with run_command or run_code",
                asked.path,
                binary.as_bytes().len()
            )),
        }
    }

    #[tool(
        description = "Write a file in a sandbox; what was there is replaced.",
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn write_file(
        &self,
        Parameters(asked): Parameters<WriteFile>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let bytes = if asked.base64 { attempt!(from_base64(&asked.content)) } else { asked.content.into_bytes() };
        let written = client.write_file_bytes(&id, &asked.path, bytes).await;
        let written = attempt!(written.map_err(|error| refused(&error)));
        said(format!("{} bytes written to {}\n", written.size_bytes, written.path))
    }

    #[tool(description = "List a directory of a sandbox.", annotations(read_only_hint = true, open_world_hint = false))]
    async fn list_files(
        &self,
        Parameters(asked): Parameters<ListFiles>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let (client, id) = (self.client(&context)?, attempt!(sandbox(&asked.sandbox_id)));
        let request = ListFilesRequest { path: asked.path, depth: asked.depth, user: None };
        let files = attempt!(client.list_files(&id, &request).await.map_err(|error| refused(&error)));
        let lines = files.iter().map(|file| {
            let kind = serde_json::to_value(file.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
            format!("{:9} {:>12} {}\n", kind.unwrap_or_default(), file.size_bytes, file.path)
        });
        said(listed(lines, "list a directory further down, or take a smaller depth"))
    }
}

/// A file's content, unless it is too large.
async fn file(client: &Client, id: &SandboxId, path: &str) -> Result<Vec<u8>, String> {
    let mut content = client.read_file(id, path, None).await.map_err(|error| refused(&error))?;
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        let what = || format!("reading {path}");
        bytes.extend_from_slice(&piece.map_err(|source| Error::Io { what: what(), source }.to_string())?);
        if bytes.len() > MAX_FILE {
            return Err(format!(
                "{path} is larger than {} MB\nNext: look at parts of it with run_command (`sed -n 1,100p`, `grep`)",
                MAX_FILE >> 20
            ));
        }
    }
    Ok(bytes)
}

/// What kind of picture models are shown it is, by its first bytes.
fn picture(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
