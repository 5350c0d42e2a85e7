//! What nearly every program is made of, read before the machine is kept for others: each of them has it in memory then.
//! And a program has run, so that the kernel has made once what it makes for the first.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// The loader, the C library, shells, and what scripts begin with. Those that an image lacks are passed over.
const FILES: [&str; 17] = [
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libtinfo.so.6",
    "/lib/ld-musl-x86_64.so.1",
    "/bin/sh",
    "/bin/bash",
    "/bin/busybox",
    "/bin/echo",
    "/bin/true",
    "/bin/cat",
    "/bin/ls",
    "/bin/sleep",
    "/usr/bin/env",
];
/// Of one file. What the image has under these names is whatever its maker likes.
const MOST: u64 = 4 << 20;

/// Where programs are looked for, and some that are.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const NAMES: [&str; 5] = ["sh", "bash", "echo", "true", "python3"];
/// The first user of most images, who may be missing.
const USER: u32 = 1000;
const HOME: &str = "/home/user";
/// What a program may take that says one word. An image's maker may have put anything in its place.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Does it. What can't be read or run is no loss.
pub fn up() {
    for path in FILES {
        let _no_loss = read(path);
    }
    for (folder, name) in FOLDERS.iter().flat_map(|folder| NAMES.iter().map(move |name| (folder, name))) {
        let _no_loss = fs::metadata(format!("{folder}/{name}"));
    }
    let _no_loss = run("/bin/echo");
}

fn read(path: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() {
        io::copy(&mut file.take(MOST), &mut io::sink())?;
    }
    Ok(())
}

fn run(program: &str) -> io::Result<()> {
    let mut command = Command::new(program);
    command.env_clear().current_dir(HOME).uid(USER).gid(USER).process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(LOOK_AGAIN);
    }
    // With all that it has started: nothing of it goes along into the copies.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _nobody_is_left = kill_process_group(group, Signal::KILL);
    }
    child.wait().map(drop)
}
