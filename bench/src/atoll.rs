//! The cases measured against a running Atoll, through its REST API with one kept-alive connection per task.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_client::{Client, Credentials, command};
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};

use crate::machine::{self, Held};
use crate::report::Report;
use crate::stats::Samples;
use crate::timing::Connection;

pub struct Bench {
    pub client: Client,
    credentials: Credentials,
    pub data_dir: PathBuf,
    pub pid: u32,
}

impl Bench {
    pub fn connect(data_dir: &Path, pid: u32) -> Result<Self> {
        let credentials = Credentials::read(&data_dir.join("credentials.json"))?;
        Ok(Self { client: Client::new(&credentials)?, credentials, data_dir: data_dir.to_owned(), pid })
    }

    pub async fn create(&self) -> Result<SandboxId> {
        Ok(self.client.create_sandbox(&CreateSandboxRequest::default()).await?.id)
    }

    pub async fn exec_ok(&self, id: &SandboxId) -> Result<()> {
        let answer = self.client.exec(id, &command("/bin/true", Vec::<String>::new())).await?;
        if answer.exit_code != 0 {
            bail!("true exited with {}", answer.exit_code);
        }
        Ok(())
    }

    pub async fn echo(&self, id: &SandboxId) -> Result<()> {
        let answer = self.client.exec(id, &command("/bin/echo", ["hello"])).await?;
        if answer.stdout != "hello\n" {
            bail!("echo said {:?}", answer.stdout);
        }
        Ok(())
    }

    pub async fn create_to_first_output(&mut self, report: &mut Report, rounds: usize) -> Result<()> {
        for _ in 0..5 {
            let id = self.create().await?;
            self.echo(&id).await?;
            self.client.destroy_sandbox(&id).await?;
        }
        let (mut whole, mut create) = (Samples::default(), Samples::default());
        let mut connection = Connection::open(&self.credentials).await?;
        for _ in 0..rounds {
            let begin = Instant::now();
            let (id, steps) = connection.create().await?;
            create.push(begin.elapsed());
            self.echo(&id).await?;
            whole.push(begin.elapsed());
            for (name, ms) in steps {
                report.step(&name, ms);
            }
            self.client.destroy_sandbox(&id).await?;
            tokio::task::block_in_place(crate::rest);
        }
        let what = "REST create to first exec output, with network, no warm pool";
        report.time(what, "8 ms p50, 20 ms p99", &whole, 8.0, Some(20.0));
        report.row("of which the create", "", format!("{:.2} ms p50", create.median()), None);
        report.ratio("create to first output", whole.median(), &["crun_run", "libcontainer", "bwrap"]);
        Ok(())
    }

    pub async fn exec_true(&mut self, report: &mut Report, rounds: usize) -> Result<()> {
        let id = self.create().await?;
        let mut samples = Samples::default();
        for round in 0..rounds + 20 {
            let begin = Instant::now();
            self.exec_ok(&id).await?;
            if round >= 20 {
                samples.push(begin.elapsed());
            }
        }
        self.client.destroy_sandbox(&id).await?;
        let goal = "1.5 ms p50, 5 ms p99";
        report.time("REST exec of `true` in a running sandbox", goal, &samples, 1.5, Some(5.0));
        report.ratio("exec of true", samples.median(), &["crun_exec", "fork_exec"]);
        Ok(())
    }

    pub async fn create_many(&mut self, report: &mut Report, count: usize, rounds: usize) -> Result<()> {
        let mut samples = Samples::default();
        for _ in 0..rounds {
            let begin = Instant::now();
            let one = || async {
                let id = self.create().await?;
                self.echo(&id).await?;
                anyhow::Ok(id)
            };
            let made = futures::future::join_all((0..count).map(|_| one())).await;
            samples.push(begin.elapsed());
            for id in made {
                self.client.destroy_sandbox(&id?).await?;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let goal = "600 ms";
        report.time("100 creates at once, all answering exec, with network", goal, &samples, 600.0, None);
        report.ratio("100 creates at once", samples.median(), &["crun_many"]);
        Ok(())
    }

    pub async fn destroy(&mut self, report: &mut Report, rounds: usize) -> Result<()> {
        let (mut answered, mut gone) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            let id = self.create().await?;
            self.echo(&id).await?;
            let begin = Instant::now();
            self.client.destroy_sandbox(&id).await?;
            answered.push(begin.elapsed());
            let begin = Instant::now();
            while self.anything_left(&id)? {
                if begin.elapsed() > Duration::from_secs(20) {
                    bail!("something of {id} is still left after 20 s");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            gone.push(begin.elapsed());
        }
        report.time("destroy: answered", "4 ms", &answered, 4.0, None);
        report.time("destroy: nothing of it left after the answer", "250 ms", &gone, 250.0, None);
        report.ratio("destroy", answered.median(), &["crun_delete", "libcontainer_delete"]);
        Ok(())
    }

    /// Whether its state directory, volume or cgroups still exist.
    fn anything_left(&self, id: &SandboxId) -> Result<bool> {
        let places = ["host/sandboxes", "host/pool", "host/pool/volumes", "sandboxes", "pool", "pool/volumes"];
        if places.iter().any(|place| self.data_dir.join(place).join(id.as_str()).exists()) {
            return Ok(true);
        }
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path()));
        for root in roots {
            let Ok(entries) = std::fs::read_dir(&root) else { continue };
            for entry in entries.flatten() {
                let ours = entry.file_name().to_string_lossy().starts_with("atoll-");
                if ours && entry.path().join(id.as_str()).exists() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub async fn memory(&mut self, report: &mut Report, count: usize) -> Result<()> {
        let before = Held::now(self.pid)?;
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(self.create().await?);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = Held::now(self.pid)?;
        for id in &made {
            self.client.destroy_sandbox(id).await?;
        }
        let (processes, kernel) = after.above(&before, count);
        let mb = processes + kernel;
        let measured = format!(
            "{mb:.2} MB ({processes:.2} MB of processes, Atoll's own among them, and {kernel:.2} MB of the kernel; n = \
             {count})"
        );
        report.row(
            "memory per idle sandbox, everything of ours included",
            "2 MB",
            measured,
            Some((0.01..=2.0).contains(&mb)),
        );
        Ok(())
    }

    pub async fn files(&mut self, report: &mut Report, megabytes: usize) -> Result<()> {
        let request =
            CreateSandboxRequest { memory_mb: Some(4096), disk_mb: Some(16_384), ..CreateSandboxRequest::default() };
        let id = self.client.create_sandbox(&request).await?.id;
        let chunk = Bytes::from(vec![0x5a_u8; 1 << 20]);
        let (mut up, mut down, mut highest) = (Samples::default(), Samples::default(), 0);
        let mut plain = Samples::default();
        for round in 0..3 {
            let path = format!("/home/user/large-{round}.bin");
            let written = format!("count={megabytes}");
            let dd = command("/bin/dd", ["if=/dev/zero", "of=/home/user/plain.bin", "bs=1M", &written]);
            let begin = Instant::now();
            let answer = self.client.exec(&id, &dd).await?;
            plain.push_value(megabytes as f64 * 1.048_576 / begin.elapsed().as_secs_f64());
            if answer.exit_code != 0 {
                bail!("dd: {}", answer.stderr);
            }
            self.client.exec(&id, &command("/bin/rm", ["/home/user/plain.bin"])).await?;
            let chunks = std::iter::repeat_n(chunk.clone(), megabytes);
            let frames = chunks.map(|bytes| Ok::<_, std::io::Error>(http_body::Frame::data(bytes)));
            let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
            let begin = Instant::now();
            self.client.write_file(&id, &path, None, body).await?;
            up.push_value(megabytes as f64 * 1.048_576 / begin.elapsed().as_secs_f64());
            highest = highest.max(machine::resident_kib(self.pid)?);
            let begin = Instant::now();
            let mut download = self.client.read_file(&id, &path, None).await?;
            let mut bytes = 0;
            while let Some(chunk) = download.next().await {
                bytes += chunk.context("downloading")?.len();
            }
            if bytes != megabytes << 20 {
                bail!("downloaded {bytes} bytes");
            }
            down.push_value(megabytes as f64 * 1.048_576 / begin.elapsed().as_secs_f64());
            highest = highest.max(machine::resident_kib(self.pid)?);
            self.client.exec(&id, &command("/bin/rm", [&path])).await?;
        }
        self.client.destroy_sandbox(&id).await?;
        let goal = "800 MB/s, flat memory";
        let met = |samples: &Samples| Some(samples.median() >= 800.0);
        let size = format!("{megabytes} MiB file");
        report.row("file upload through REST", goal, format!("{:.0} MB/s ({size})", up.median()), met(&up));
        report.row("file download through REST", goal, format!("{:.0} MB/s ({size})", down.median()), met(&down));
        let without = format!("{:.0} MB/s", plain.median());
        report.row("the same bytes written by `dd` in the same sandbox, no API, no network", "", without, None);
        report.note(format!("Resident memory of atoll's process after the transfers: {} MiB.", highest / 1024));
        Ok(())
    }
}
