//! `atoll cp`: single files by the file API, directories as a tar stream through a program in the sandbox.
//!
//! Like cp: when the destination is a directory that exists, things go into it under their own name. Everything
//! streams; a download appears under its name only when it is whole.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::ExecRequest;
use atoll_client::{Client, Upload, command};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::tarball;
use crate::cli::{CpArgs, Global};
use crate::output::{self, with_hint};

const CHUNK: usize = 256 << 10;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Pipe,
    Sandbox(SandboxId, String),
}

impl Place {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Pipe);
        }
        if let Some((id, path)) = text.split_once(':') {
            if let Ok(id) = id.parse() {
                let path = if path.is_empty() { "." } else { path };
                return Ok(Self::Sandbox(id, path.to_owned()));
            }
            if id.starts_with(SandboxId::PREFIX) {
                bail!("`{id}` is not a sandbox's id");
            }
        }
        Ok(Self::Local(PathBuf::from(text)))
    }
}

pub async fn main(args: CpArgs, global: &Global) -> anyhow::Result<u8> {
    let source = Place::parse(&args.source)?;
    let destination = Place::parse(&args.destination)?;
    let client = super::client(global)?;
    let copy = Copy { client: &client, user: args.user, progress: Progress::start(global.json) };
    let bytes = match (source, destination) {
        (Place::Local(local), Place::Sandbox(id, path)) => copy.upload(&local, &id, &path).await?,
        (Place::Pipe, Place::Sandbox(id, path)) => {
            copy.upload_stream(&id, &path, tokio::io::stdin(), &args.source).await?
        }
        (Place::Sandbox(id, path), Place::Local(local)) => copy.download(&id, &path, &local).await?,
        (Place::Sandbox(id, path), Place::Pipe) => copy.download_to(&id, &path, &mut tokio::io::stdout()).await?,
        (Place::Sandbox(..), Place::Sandbox(..)) => {
            return Err(with_hint(
                "both sides are in a sandbox",
                "copy through `-`: atoll cp A:/x - | atoll cp - B:/x",
            ));
        }
        _ => return Err(with_hint("neither side is in a sandbox", "name one as SANDBOX:PATH, such as sb-…:/tmp/file")),
    };
    copy.progress.finish();
    if global.json {
        output::print_json(&json!({ "source": args.source, "destination": args.destination, "bytes": bytes }))?;
    }
    Ok(0)
}

/// What is at a path in a sandbox.
struct RemoteStat {
    directory: bool,
    mode: u32,
}

struct Copy<'a> {
    client: &'a Client,
    user: Option<String>,
    progress: Progress,
}

impl Copy<'_> {
    async fn upload(&self, local: &Path, id: &SandboxId, path: &str) -> anyhow::Result<u64> {
        let metadata = std::fs::metadata(local).with_context(|| format!("reading {}", local.display()))?;
        let there = self.stat(id, path).await?;
        let into = there.as_ref().is_some_and(|there| there.directory) || path.ends_with('/');
        let target = if into { join(path, &own_name(local)?) } else { path.to_owned() };
        if metadata.is_dir() {
            if there.is_some_and(|there| !there.directory) {
                bail!("{path} in the sandbox is a file, {} a directory", local.display());
            }
            return tarball::upload(self.client, id, local, &target, self.user.as_deref(), &self.progress).await;
        }
        let file = tokio::fs::File::open(local).await.with_context(|| format!("opening {}", local.display()))?;
        let bytes = self.upload_stream(id, &target, file, &local.display().to_string()).await?;
        let mode = metadata.permissions().mode();
        if mode & 0o111 != 0 {
            let request = self.as_user(command("chmod", [format!("{:o}", mode & 0o777), target.clone()]));
            let done = self.client.exec(id, &request).await?;
            if done.exit_code != 0 {
                bail!("making {target} executable: {}", done.stderr.trim());
            }
        }
        Ok(bytes)
    }

    async fn upload_stream(
        &self,
        id: &SandboxId,
        path: &str,
        source: impl AsyncRead + Send + Unpin + 'static,
        name: &str,
    ) -> anyhow::Result<u64> {
        let body = upload_body(source, self.progress.clone());
        let written = self.client.write_file(id, path, self.user.as_deref(), body).await;
        Ok(written.with_context(|| format!("copying {name} to {path} in {id}"))?.size_bytes)
    }

    async fn download(&self, id: &SandboxId, path: &str, local: &Path) -> anyhow::Result<u64> {
        let there = self.stat(id, path).await?.ok_or_else(|| anyhow!("there is no {path} in {id}"))?;
        let name = || {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            match name {
                "" | "." | ".." => bail!("{path} has no name of its own; name the destination"),
                name => Ok(name.to_owned()),
            }
        };
        let target = if local.is_dir() { local.join(name()?) } else { local.to_owned() };
        if there.directory {
            return tarball::download(self.client, id, path, &target, self.user.as_deref(), &self.progress).await;
        }
        let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file_name = target.file_name().context("the destination has no name")?.to_string_lossy().into_owned();
        let draft = Draft(folder.join(format!(".{file_name}.{}.part", std::process::id())));
        let mut file =
            tokio::fs::File::create(&draft.0).await.with_context(|| format!("creating {}", draft.0.display()))?;
        let bytes = self.download_to(id, path, &mut file).await?;
        let mode = std::fs::Permissions::from_mode(there.mode & 0o777);
        file.set_permissions(mode).await.with_context(|| format!("setting the mode of {}", target.display()))?;
        drop(file);
        std::fs::rename(&draft.0, &target).with_context(|| format!("putting {} in place", target.display()))?;
        Ok(bytes)
    }

    async fn download_to(
        &self,
        id: &SandboxId,
        path: &str,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> anyhow::Result<u64> {
        let what = || format!("copying {path} from {id}");
        let mut download = self.client.read_file(id, path, self.user.as_deref()).await.with_context(what)?;
        let expected = download.length();
        let mut bytes = 0;
        while let Some(chunk) = download.next().await {
            let chunk = chunk.with_context(what)?;
            sink.write_all(&chunk).await.with_context(what)?;
            bytes += chunk.len() as u64;
            self.progress.add(chunk.len());
        }
        sink.flush().await.with_context(what)?;
        if let Some(expected) = expected.filter(|&expected| expected != bytes) {
            bail!("{}: {bytes} of {expected} bytes came", what());
        }
        Ok(bytes)
    }

    /// What is at `path`; `None` when nothing is.
    async fn stat(&self, id: &SandboxId, path: &str) -> anyhow::Result<Option<RemoteStat>> {
        let request = self.as_user(command("stat", ["-L", "-c", "%f", "--", path]));
        let answer = self.client.exec(id, &request).await.with_context(|| format!("looking at {path} in {id}"))?;
        if answer.exit_code != 0 {
            if answer.stderr.contains("Permission denied") {
                bail!("looking at {path} in {id}: permission denied (--user root?)");
            }
            return Ok(None);
        }
        let mode = u32::from_str_radix(answer.stdout.trim(), 16)
            .with_context(|| format!("stat in {id} answered `{}`", output::plain(answer.stdout.trim())))?;
        Ok(Some(RemoteStat { directory: mode & 0o170_000 == 0o040_000, mode }))
    }

    fn as_user(&self, request: ExecRequest) -> ExecRequest {
        ExecRequest { user: self.user.clone(), ..request }
    }
}

/// A file that is removed unless it has got its final name.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn own_name(local: &Path) -> anyhow::Result<String> {
    let named = local.canonicalize().with_context(|| format!("resolving {}", local.display()))?;
    let name = named.file_name().with_context(|| format!("{} has no name of its own", local.display()))?;
    name.to_str().map(str::to_owned).with_context(|| format!("the name of {} is not UTF-8", local.display()))
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

fn upload_body(source: impl AsyncRead + Send + Unpin + 'static, progress: Progress) -> Upload {
    let chunks = futures::stream::try_unfold((source, progress), |(mut source, progress)| async move {
        use tokio::io::AsyncReadExt;
        let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
        let length = source.read_buf(&mut buffer).await?;
        progress.add(length);
        Ok::<_, io::Error>((length > 0).then(|| (Frame::data(Bytes::from(buffer)), (source, progress))))
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// Shown on a terminal only.
#[derive(Clone)]
pub struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    fn start(json: bool) -> Self {
        if json || !output::colours(&io::stderr()) {
            return Self(None);
        }
        let bar = indicatif::ProgressBar::no_length();
        if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {bytes} ({bytes_per_sec})") {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    pub fn add(&self, bytes: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes as u64);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let id = SandboxId::new();
        assert_eq!(Place::parse("-").unwrap(), Place::Pipe);
        assert_eq!(Place::parse("a:b").unwrap(), Place::Local("a:b".into()));
        assert_eq!(Place::parse("./x").unwrap(), Place::Local("./x".into()));
        assert_eq!(Place::parse(&format!("{id}:/a:b")).unwrap(), Place::Sandbox(id.clone(), "/a:b".to_owned()));
        assert_eq!(Place::parse(&format!("{}:", id.dns_label())).unwrap(), Place::Sandbox(id, ".".to_owned()));
        assert!(Place::parse("sb-short:/x").is_err());
    }

    #[test]
    fn names_are_joined_with_one_slash() {
        assert_eq!(join("/tmp/", "x"), "/tmp/x");
        assert_eq!(join("/", "x"), "/x");
    }
}
