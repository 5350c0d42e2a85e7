//! One process of a cluster on its own machine: a replica of control or a host's agent.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::atoll::binary;
use crate::leaks::Mark;
use crate::wait::until;

pub struct Node {
    /// Of its network namespace.
    pub machine: String,
    pub address: Ipv4Addr,
    pub dir: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    child: Option<Child>,
    /// Its data directory is a file system of its own.
    small_disk: bool,
}

impl Node {
    /// Prepares one; [`Node::run`] starts it. `args` without the data directory, which is `dir/data`.
    pub fn new(machine: String, address: Ipv4Addr, dir: PathBuf, args: &[&str]) -> Self {
        std::fs::create_dir_all(&dir).expect("a node's directory");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { machine, address, dir, args, env: Vec::new(), child: None, small_disk: false }
    }

    /// Gives it a disk of its own, of this size, before it is started: a file system in a sparse file.
    pub fn give_small_disk(&mut self, size: &str) {
        std::fs::create_dir_all(self.data_dir()).expect("a data directory");
        let (image, data) = (self.dir.join("disk"), self.data_dir());
        let script = "truncate -s $1 $2 && mkfs.ext4 -q -m 0 $2 && mount -o loop $2 $3 && chmod 700 $3";
        let mut make = Command::new("sh");
        make.args(["-ec", script, "sh", size]).arg(image).arg(data);
        assert!(make.status().expect("sh").success(), "making a small disk");
        self.small_disk = true;
    }

    /// Its machine loses its power: everything on it ends at once, and its disk has just what it was given by then. What the
    /// kernel still held in memory for that disk is lost. (The order of writes is kept; a real disk may keep less.)
    pub fn lose_power(&mut self) {
        assert!(self.small_disk, "this node's disk is everybody's");
        let mark = self.mark();
        self.child.as_mut().expect("a running node").kill().expect("killing a node");
        self.child.take().expect("a running node").wait().expect("waiting for a node");
        let (disk, copy) = (self.dir.join("disk"), self.dir.join("disk-as-it-was"));
        // At one moment: what the kernel writes while it is copied makes it another disk. Holes are not read.
        let script = "sum() { tar -cSf - -C / \"${1#/}\" | sha256sum; }
            until before=$(sum $1); cp --sparse=auto $1 $2; [ \"$(sum $1)\" = \"$before\" ]; do :; done";
        let copied = Command::new("sh").args(["-ec", script, "sh"]).arg(&disk).arg(&copy).status().expect("sh");
        assert!(copied.success(), "copying a disk");
        mark.remove();
        // Its file systems bear the same names as those of the copy: the kernel must have forgotten them first.
        for _ in 0..500 {
            if mark.left().is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(mark.left(), Vec::<String>::new());
        let script = "umount -l $1 2>/dev/null || :; mv $3 $2; mount -o loop $2 $1";
        let mounted =
            Command::new("sh").args(["-ec", script, "sh"]).arg(self.data_dir()).arg(&disk).arg(&copy).status();
        assert!(mounted.expect("sh").success(), "mounting a disk again");
    }

    /// Fills its disk to the last byte, with a file whose removal frees it.
    pub fn fill_disk(&self) -> PathBuf {
        use std::io::Write;
        assert!(self.small_disk, "this node's disk is everybody's");
        let path = self.data_dir().join("filler");
        let mut file = File::create(&path).expect("a file that fills the disk");
        let free = rustix::fs::fstatvfs(&file).expect("the size of the disk");
        let length = free.f_bavail * free.f_frsize;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length.saturating_sub(16 << 20))
            .expect("filling the disk");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("the end of the file");
        // In ever smaller pieces: the last byte counts.
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Further environment for later starts.
    pub fn set(&mut self, env: &[(&str, &str)]) {
        for (name, value) in env {
            self.env.retain(|(known, _)| known != name);
            self.env.push(((*name).to_owned(), (*value).to_owned()));
        }
    }

    /// Starts it, with further environment for this and later starts.
    pub fn run(&mut self, env: &[(&str, &str)]) {
        self.set(env);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a node's log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.machine)).arg("--").arg(binary()).args(&self.args);
        command.arg("--data-dir").arg(self.data_dir());
        for name in ["ATOLL_URL", "ATOLL_API_KEY", "ATOLL_DATA_DIR"] {
            command.env_remove(name);
        }
        // Nothing that a test didn't ask for.
        command.env("ATOLL_SPARE_MACHINES", "0");
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a node's log")).stderr(log);
        self.child = Some(command.spawn().expect("starting a node"));
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// SIGKILL.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing a node");
            child.wait().expect("waiting for a node");
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
        self.ended().await;
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        let mut child = self.child.take().expect("a running node");
        loop {
            if child.try_wait().expect("waiting for a node").is_some() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// SIGSTOP: its sockets stay open, and nobody answers.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("a running node");
        // SAFETY: kill has no memory effects; the pid is our own child, not yet waited for.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
    }

    /// Waits for a line of its log.
    pub async fn says(&self, text: &str) {
        until(&format!("a node to say {text:?}"), || async { self.log().contains(text).then_some(()) }).await;
    }

    /// How many lines of its log hold this text.
    pub fn times_said(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    pub fn mark(&self) -> Mark {
        Mark::of(&self.data_dir())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- {} ({}), the end of its log:\n{}", self.dir.display(), self.machine, tail.join("\n"));
        }
        let mark = self.mark();
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        mark.remove();
        if self.small_disk {
            let _ = Command::new("umount").arg("-l").arg(self.data_dir()).status();
        }
    }
}
