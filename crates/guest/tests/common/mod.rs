//! What the tests share: a real guest process, and a plain HTTP client to talk to it with.
#![allow(dead_code)]

pub mod client;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use client::{Answer, Client, Events};
use serde_json::{Value, json};

pub const BINARY: &str = env!("CARGO_BIN_EXE_atoll-guest");

/// Longer than anything here takes, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A guest that runs as an ordinary process, with a folder of its own; both go when it is dropped.
pub struct Guest {
    pub process: Child,
    pub folder: tempfile::TempDir,
    pub client: Client,
}

pub fn config() -> Value {
    json!({
        "sandbox_id": "itest", "template": "base", "hostname": "box", "env": {"FROM_CONFIG": "1"},
        "default_user": "root", "default_workdir": "", "boot_id": "b", "vcpus": 2, "memory_bytes": 536870912_u64,
    })
}

impl Guest {
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: Value) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("guest.sock");
        let client = Client::unix(&socket);
        Self::spawn(folder, &format!("unix:{}", socket.display()), client, &config).await
    }

    /// A guest behind the door that is open to programs inside.
    pub async fn start_tcp(config: Value) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::spawn(folder, &format!("tcp:{address}"), Client::tcp(address), &config).await
    }

    async fn spawn(folder: tempfile::TempDir, listen: &str, client: Client, config: &Value) -> Self {
        let file = folder.path().join("config.json");
        std::fs::write(&file, config.to_string()).expect("written");
        let process = Command::new(BINARY)
            .args(["--listen", listen, "--config"])
            .arg(&file)
            .env_clear()
            .stderr(Stdio::null())
            .spawn()
            .expect("the guest starts");
        let guest = Self { process, folder, client };
        eventually("the guest answers", async || {
            guest.client.try_send("GET", "/health", &[], Vec::new()).await.is_some()
        })
        .await;
        guest
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A path in the guest's folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("text").to_owned()
    }

    pub async fn exec(&self, request: Value) -> Answer {
        self.client.rpc("atoll.guest.v1.GuestService/Exec", request).await
    }

    /// The standard output of a shell script that must succeed.
    pub async fn sh(&self, script: &str) -> String {
        let answer = self.exec(json!({"cmd": "/bin/sh", "args": ["-c", script]})).await;
        let result = answer.json();
        assert_eq!(answer.status, 200, "{result}");
        assert_eq!(result["exitCode"], Value::Null, "{script}: {}", text(&result["stderr"]));
        text(&result["stdout"])
    }

    pub async fn start_process(&self, request: Value) -> Events {
        self.client.stream("process.Process/Start", request, &[]).await
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Text in a bytes field of a JSON answer.
pub fn text(value: &Value) -> String {
    use base64::Engine;
    let encoded = value.as_str().unwrap_or("");
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64");
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn base64(data: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(data)
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A field of /proc/PID/status.
pub fn status_of(pid: u32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:")))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A tmpfs of a given size, unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).expect("made");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status();
        assert!(mounted.expect("mount runs").success(), "mounting needs root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
