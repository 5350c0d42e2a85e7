//! The steps of a build inside its sandbox: programs with their output as it comes, files, users, directories.

use std::time::Duration;

use atoll_model::{HostId, SandboxId};
use atoll_rpc::connectrpc::client::CallOptions;
use atoll_rpc::process::process_event::Event;
use atoll_rpc::process::process_event::data_event::Output;
use atoll_rpc::process::{ProcessConfig, StartRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::{BodyExt, StreamBody};

use super::log::Log;
use super::recipe::quoted;
use crate::fleet::Fleet;

/// One step.
const STEP_DEADLINE: Duration = Duration::from_secs(3600);
/// Where uploaded files wait inside.
const UPLOAD: &str = "/tmp/.atoll-files.tar";

/// A build's sandbox.
pub struct Inside {
    pub fleet: Fleet,
    pub host: HostId,
    pub sandbox: SandboxId,
    pub log: Log,
    /// Who runs what follows, where, and with what.
    pub user: String,
    pub workdir: String,
    pub env: Vec<(String, String)>,
}

/// Whole lines of a stream of bytes.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    const LONGEST: usize = 16 << 10;

    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' || self.0.len() >= Self::LONGEST {
                line(String::from_utf8_lossy(&self.0).trim_end_matches('\r'));
                self.0.clear();
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
    }

    fn end(&mut self, mut line: impl FnMut(&str)) {
        if !self.0.is_empty() {
            line(&String::from_utf8_lossy(&self.0));
            self.0.clear();
        }
    }
}

/// One of a program's outputs on its way to the log, also what is left of it when nobody waits for the program any more.
struct Said<'a> {
    log: &'a Log,
    level: &'static str,
    lines: Lines,
}

impl<'a> Said<'a> {
    fn new(log: &'a Log, level: &'static str) -> Self {
        Self { log, level, lines: Lines::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.lines.take(bytes, |line| self.log.say(self.level, line));
    }
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        self.lines.end(|line| self.log.say(self.level, line));
    }
}

impl Inside {
    /// Runs a script of the recipe's as `user`, in a login shell. Profiles of distributions set `PATH` anew: what the
    /// recipe or its image says of it counts behind them.
    pub async fn run(&self, script: &str, user: &str) -> Result<(), String> {
        let choose = "if [ -x /bin/bash ]; then exec /bin/bash -l -c \"$1\"; else exec /bin/sh -l -c \"$1\"; fi";
        let path = self.env.iter().find(|(name, _)| name == "PATH");
        let whole = path.map(|(_, path)| format!("export PATH={}; {script}", quoted(path)));
        self.program(user, choose, whole.as_deref().unwrap_or(script), Some(&self.workdir), brief(script)).await
    }

    /// Runs a script of our own as root.
    pub async fn root(&self, script: &str) -> Result<(), String> {
        let choose = "if [ -x /bin/bash ]; then exec /bin/bash -e -c \"$1\"; else exec /bin/sh -e -c \"$1\"; fi";
        self.program("root", choose, script, Some("/"), brief(script)).await
    }

    async fn program(
        &self,
        user: &str,
        shell: &str,
        script: &str,
        cwd: Option<&str>,
        shown: String,
    ) -> Result<(), String> {
        let args = ["-c", shell, "sh", script].map(str::to_owned).to_vec();
        let config = ProcessConfig {
            cmd: "/bin/sh".to_owned(),
            args,
            envs: self.env.iter().cloned().collect(),
            cwd: cwd.map(str::to_owned),
            ..Default::default()
        };
        let request = StartRequest { process: config.into(), stdin: Some(false), ..Default::default() };
        let options = CallOptions::default()
            .with_timeout(STEP_DEADLINE)
            .with_header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{user}:"))));
        let processes = self.fleet.guest_processes(&self.host, &self.sandbox);
        let failed = |error: atoll_rpc::connectrpc::ConnectError| {
            let code = error.code.as_str();
            let message = error.message.clone().unwrap_or_default();
            format!("failed to run command '{shown}': command failed: {code}: {message}")
        };
        let mut stream = processes.start_with_options(request, options).await.map_err(failed)?;
        let (mut out, mut err) = (Said::new(&self.log, "info"), Said::new(&self.log, "error"));
        while let Some(message) = stream.message().await.map_err(failed)? {
            let Some(event) = message.to_owned_message().event.into_option().and_then(|event| event.event) else {
                continue;
            };
            match event {
                Event::Data(data) => match data.output {
                    Some(Output::Stdout(bytes) | Output::Pty(bytes)) => out.take(&bytes),
                    Some(Output::Stderr(bytes)) => err.take(&bytes),
                    None => {}
                },
                Event::End(end) => {
                    return match end.exit_code {
                        0 => Ok(()),
                        code => Err(format!("command '{shown}' failed: exit status {code}")),
                    };
                }
                Event::Start(_) | Event::Keepalive(_) => {}
            }
        }
        Err("the program's end was lost: the sandbox may be gone".to_owned())
    }

    /// Puts uploaded files where a `COPY` wants them. The archive is unpacked inside, where it can harm nobody else.
    pub async fn copy(
        &self,
        archive: tokio::fs::File,
        source: &str,
        destination: &str,
        owner: Option<&str>,
        mode: Option<&str>,
    ) -> Result<(), String> {
        self.upload(archive).await?;
        let absolute = if destination.starts_with('/') {
            destination.to_owned()
        } else {
            format!("{}/{destination}", self.workdir.trim_end_matches('/'))
        };
        let owner = owner.map_or_else(|| self.user.clone(), str::to_owned);
        // The pattern is the shell's to expand, everything else in it is quoted. Directories that are there already stay
        // whose they are; those that are made are the owner's.
        let pattern: String = source
            .trim_start_matches('/')
            .chars()
            .map(|letter| if "*?[]".contains(letter) { letter.to_string() } else { quoted(&letter.to_string()) })
            .collect();
        let pattern = if pattern.is_empty() || source == "." { ".".to_owned() } else { pattern };
        let script = format!(
            "[ -z \"$BASH_VERSION\" ] || shopt -s dotglob globstar\n\
             d=$(mktemp -d /tmp/.atoll-copy-XXXXXX); trap 'rm -rf \"$d\" \"$d.kept\" {UPLOAD}' EXIT\n\
             tar -C \"$d\" -x -f {UPLOAD}\n\
             made() {{ [ -d \"$1\" ] || {{ made \"$(dirname \"$1\")\"; mkdir \"$1\"; chown {to} \"$1\"; }}; }}\n\
             dest={dest}; cd \"$d\"\n\
             set -- {pattern}\n\
             [ -e \"$1\" ] || [ -L \"$1\" ] || {{ echo \"COPY: nothing matches {shown}\" >&2; exit 1; }}\n\
             {chown}{chmod}\
             for s in \"$@\"; do\n\
               if [ -d \"$s\" ] && [ ! -L \"$s\" ]; then\n\
                 (cd \"$s\" && find . -type d) | while IFS= read -r p; do [ ! -d \"$dest/$p\" ] || \
                   echo \"$(stat -c '%u:%g %a' \"$dest/$p\") $p\"; done >\"$d.kept\"\n\
                 made \"$dest\"; cp -a \"$s\"/. \"$dest\"/\n\
                 while read -r owner mode p; do chown \"$owner\" \"$dest/$p\"; chmod \"$mode\" \"$dest/$p\"; \
                   done <\"$d.kept\"\n\
               elif [ \"${{dest%/}}\" != \"$dest\" ] || [ -d \"$dest\" ] || [ $# -gt 1 ]; then \
                 made \"$dest\"; cp -a \"$s\" \"$dest\"/\n\
               else made \"$(dirname \"$dest\")\"; cp -a \"$s\" \"$dest\"; fi\n\
             done",
            dest = quoted(&absolute),
            shown = source.replace(['"', '$', '`', '\\'], "_"),
            to = quoted(&owner_and_group(&owner)),
            chown = format_args!("chown -R -h {} .\n", quoted(&owner_and_group(&owner))),
            chmod = mode.map(|mode| format!("chmod -R {mode} \"$@\"\n")).unwrap_or_default(),
        );
        self.root(&script).await
    }

    async fn upload(&self, archive: tokio::fs::File) -> Result<(), String> {
        use futures::StreamExt;
        let chunks = tokio_util::io::ReaderStream::with_capacity(archive, 256 << 10);
        let body = StreamBody::new(chunks.map(|chunk| chunk.map(http_body::Frame::data)));
        let request = http::Request::post(format!("/files?path={UPLOAD}&username=root"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(|error| error.to_string())?;
        let answer = self.fleet.guest_http(&self.host, &self.sandbox, request).await;
        let answer = answer.map_err(|error| format!("sending the files into the sandbox: {error}"))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = http_body_util::Limited::new(answer.into_body(), 64 << 10).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(format!("sending the files into the sandbox: {status} {}", String::from_utf8_lossy(&body)))
    }

    /// A directory of the current user's, unless it is there.
    pub async fn make_directory(&self, path: &str) -> Result<(), String> {
        let (path, owner) = (quoted(path), quoted(&owner_and_group(&self.user)));
        self.root(&format!("[ -d {path} ] || {{ mkdir -p {path} && chown {owner} {path}; }}")).await
    }

    /// A user with a home and a shell, unless there is one; with `sudo` without a password if wanted.
    pub async fn make_user(&self, name: &str, sudo: bool) -> Result<(), String> {
        let script = format!(
            "grep -q '^{name}:' /etc/passwd || {{ \
               if command -v useradd >/dev/null; then useradd -m -s \"$([ -x /bin/bash ] && echo /bin/bash || echo /bin/sh)\" {name}; \
               else adduser -D {name}; fi; }}\n\
             {}",
            if sudo {
                format!(
                    "mkdir -p /etc/sudoers.d && echo '{name} ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/{name} && \
                     chmod 0440 /etc/sudoers.d/{name}"
                )
            } else {
                String::new()
            }
        );
        self.root(&script).await
    }

    /// Asks until it succeeds.
    pub async fn wait_ready(&self, command: &str, patience: Duration) -> Result<(), String> {
        let quiet = Log::clone(&self.log);
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.run(command, &self.user).await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(format!("not ready within {} s: {error}", patience.as_secs()));
                }
                Err(_) => quiet.say("debug", "not ready yet"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// `user` as `chown` takes it: with its own group unless one is named.
fn owner_and_group(owner: &str) -> String {
    if owner.contains(':') { owner.to_owned() } else { format!("{owner}:") }
}

fn brief(script: &str) -> String {
    let line = script.lines().next().unwrap_or_default();
    let short: String = line.chars().take(120).collect();
    if short.len() < script.len() { format!("{short}...") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_into_lines_wherever_it_is_cut_on_the_way() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for part in ["a", "b\nc\r\n", "\nd"] {
            lines.take(part.as_bytes(), |line| seen.push(line.to_owned()));
        }
        lines.end(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["ab", "c", "", "d"]);
        lines.take(&vec![b'x'; 3 * Lines::LONGEST], |line| assert!(line.len() <= Lines::LONGEST));
    }
}
