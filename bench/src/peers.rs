//! What else can start a program in a sandbox on this machine, timed in the same run: plain fork and exec,
//! bubblewrap, crun (in a private mount namespace without the v2 cgroup tree, which it refuses here), libcontainer.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::stats::Samples;

/// A root file system on the disk that the peers run from, and a bundle for the OCI runtimes.
pub struct Bundle {
    dir: tempfile::TempDir,
}

impl Bundle {
    /// Unpacks the template's image by a mount, and writes a `config.json` that runs `args`.
    pub fn new(image: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("atoll-bench-").tempdir()?;
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir(&rootfs)?;
        let status = Command::new("mount").args(["-t", "erofs", "-o", "ro"]).arg(image).arg(&rootfs).status()?;
        if !status.success() {
            bail!("mounting {} failed", image.display());
        }
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn write_config(&self, args: &[&str]) -> Result<()> {
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "noNewPrivileges": true
            },
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "bench",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
            ],
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}
                ]
            }
        });
        std::fs::write(self.path().join("config.json"), serde_json::to_vec_pretty(&config)?)
            .context("writing config.json")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.rootfs()).status();
    }
}

fn time_command(rounds: usize, mut command: impl FnMut() -> Command) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let mut command = command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begin = Instant::now();
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        samples.push(begin.elapsed());
        crate::rest();
    }
    Ok(samples)
}

/// Plain fork and exec of `true`.
pub fn fork_exec(rounds: usize) -> Result<Samples> {
    time_command(rounds, || Command::new("/bin/true"))
}

/// bubblewrap with all namespaces, on the same root file system.
pub fn bubblewrap(bundle: &Bundle, rounds: usize) -> Result<Samples> {
    let rootfs = bundle.rootfs();
    time_command(rounds, || {
        let mut command = Command::new("bwrap");
        command.arg("--unshare-all").arg("--ro-bind").arg(&rootfs).arg("/");
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"]);
        command
    })
}

fn crun(bundle: &Bundle) -> Command {
    let mut command = Command::new("crun");
    command.arg("--root").arg(bundle.path().join("crun-state")).current_dir(bundle.path());
    // SAFETY: between fork and exec only async-signal-safe calls are made: unshare, mount and umount2.
    unsafe {
        command.pre_exec(|| {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let root = c"/".as_ptr();
            libc::mount(std::ptr::null(), root, std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null());
            libc::umount2(c"/sys/fs/cgroup/unified".as_ptr(), libc::MNT_DETACH);
            Ok(())
        });
    }
    command
}

/// `crun run` of `true`: create, start, wait, delete.
pub fn crun_run(bundle: &Bundle, rounds: usize) -> Result<Samples> {
    bundle.write_config(&["/bin/true"])?;
    let mut n = 0;
    time_command(rounds, || {
        n += 1;
        let mut command = crun(bundle);
        command.args(["run", &format!("bench-run-{n}")]);
        command
    })
}

/// `crun exec` of `true` in a running container, and `crun delete --force` of it.
pub fn crun_exec(bundle: &Bundle, rounds: usize) -> Result<(Samples, Samples)> {
    bundle.write_config(&["/bin/sleep", "600"])?;
    let id = "bench-exec";
    let status = crun(bundle).args(["run", "--detach", id]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("crun run --detach failed");
    }
    let exec = time_command(rounds, || {
        let mut command = crun(bundle);
        command.args(["exec", id, "/bin/true"]);
        command
    });
    let delete = time_command(1, || {
        let mut command = crun(bundle);
        command.args(["delete", "--force", id]);
        command
    });
    Ok((exec?, delete?))
}

/// 100 detached `crun run` at once (8 runtimes at a time would only queue on two cores): time until all have started.
pub fn crun_many(bundle: &Bundle, count: usize) -> Result<Samples> {
    bundle.write_config(&["/bin/sleep", "600"])?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    let mut children = Vec::new();
    for n in 0..count {
        let mut command = crun(bundle);
        command.args(["run", "--detach", &format!("bench-many-{n}")]);
        children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    for child in &mut children {
        child.wait()?;
    }
    samples.push(begin.elapsed());
    for n in 0..count {
        let mut command = crun(bundle);
        command.args(["delete", "--force", &format!("bench-many-{n}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    }
    Ok(samples)
}

/// libcontainer (youki's library) through the small program in `bench/libcontainer`: it prints one line per round,
/// `create_start_ms delete_ms`.
pub fn libcontainer(bundle: &Bundle, program: &Path, rounds: usize) -> Result<(Samples, Samples)> {
    bundle.write_config(&["/bin/sleep", "600"])?;
    let output = Command::new(program)
        .arg(bundle.path())
        .arg(rounds.to_string())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    let (mut create, mut delete) = (Samples::default(), Samples::default());
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut fields = line.split_whitespace().map(str::parse::<f64>);
        if let (Some(Ok(a)), Some(Ok(b))) = (fields.next(), fields.next()) {
            create.push_value(a);
            delete.push_value(b);
        }
    }
    if create.len() == 0 {
        bail!("{} printed no figures", program.display());
    }
    Ok((create, delete))
}
