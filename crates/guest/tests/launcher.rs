//! The guest as the launcher starts it: with descriptors, and as an idle PID 1 is expected to be.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use common::{BINARY, Client, config, eventually, status_of, text};
use serde_json::json;

struct Launched {
    process: Child,
    folder: tempfile::TempDir,
    client: Client,
    ready: File,
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the guest with descriptors 3 to 6 as the launcher passes them.
fn launch() -> Launched {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("bound");
    let mut memfd = File::from(rustix::fs::memfd_create("config", rustix::fs::MemfdFlags::CLOEXEC).expect("made"));
    memfd.write_all(config().to_string().as_bytes()).expect("written");
    let (ready, ready_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("made");
    let proc = folder.path().join("proc");
    std::fs::create_dir(&proc).expect("made");
    for name in ["meminfo", "stat", "loadavg", "uptime"] {
        std::fs::write(proc.join(name), "first\n").expect("written");
    }
    let descriptors: [OwnedFd; 4] =
        [listener.into(), memfd.into(), ready_writer, File::open(&proc).expect("opened").into()];
    // Out of the way of the numbers they shall get.
    let high = descriptors.map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, 100).expect("duplicated"));
    let numbers: [RawFd; 4] = [0, 1, 2, 3].map(|index| high[index].as_raw_fd());
    let mut command = Command::new(BINARY);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: dup2 is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (target, source) in (3..).zip(numbers) {
                if libc::dup2(source, target) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let process = command.spawn().expect("started");
    Launched { process, client: Client::unix(&socket), folder, ready: ready.into() }
}

#[tokio::test]
async fn it_says_ready_once_it_answers_and_closes_the_pipe() {
    let mut guest = launch();
    let mut said = String::new();
    guest.ready.read_to_string(&mut said).expect("read to the end");
    assert_eq!(said, "ready\n");
    assert_eq!(guest.client.get("/health").await.status, 204);
    let answer =
        guest.client.rpc("atoll.guest.v1.GuestService/Exec", json!({"cmd": "ls", "args": ["/proc/self/fd"]})).await;
    assert_eq!(text(&answer.json()["stdout"]), "0\n1\n2\n3\n", "programs see none of the guest's descriptors");
}

#[tokio::test]
async fn the_proc_files_are_fresh_while_programs_run_and_an_idle_guest_sleeps() {
    let mut guest = launch();
    guest.ready.read_to_string(&mut String::new()).expect("read to the end");
    let proc = guest.folder.path().join("proc");
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).expect("read");
    assert_eq!(read("meminfo"), "first\n", "nothing is written before anything runs");
    guest.client.rpc("atoll.guest.v1.GuestService/Exec", json!({"cmd": "sleep", "args": ["0.5"]})).await;
    eventually("all files are written", async || {
        read("meminfo").starts_with("MemTotal:         524288 kB\n")
            && read("stat").starts_with("cpu  ")
            && read("loadavg").split(' ').count() == 5
            && read("uptime").split(' ').count() == 2
    })
    .await;
    // Counts of the times it was woken stop rising, with all its threads.
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", guest.process.id())).expect("read");
        let pids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        pids.map(|pid| status_of(pid, "voluntary_ctxt_switches").unwrap_or_default()).collect::<Vec<_>>()
    };
    let (mut last, mut unchanged) = (switches(), 0);
    eventually("it stays asleep for three seconds, longer than any of its intervals", async || {
        let now = switches();
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        unchanged > 30
    })
    .await;
}

#[test]
fn it_says_what_is_missing() {
    for (arguments, problem) in [
        (vec!["--nonsense"], "unknown argument '--nonsense'"),
        (vec!["--listen"], "--listen needs a value"),
        (vec!["--listen", "carrier-pigeon"], "neither unix:PATH nor tcp:ADDRESS"),
        (vec!["--config", "/dev/null"], "--config needs --listen"),
    ] {
        let output = Command::new(BINARY).args(arguments).output().expect("ran");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(problem), "{said}");
    }
}
