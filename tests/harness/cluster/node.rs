//! One process of a cluster on its own machine: a replica of control or a host's agent.

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

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

    /// Gives it a disk of its own, of this size, before it is started: a file system in a sparse file. That lies on a btrfs,
    /// where it can be copied at one moment.
    pub fn give_small_disk(&mut self, size: &str) {
        std::fs::create_dir_all(self.data_dir()).expect("a data directory");
        let script = "truncate -s 64G $1/shelf.img; mkfs.btrfs -q $1/shelf.img; mkdir $1/shelf
            mount -o loop,nodatacow $1/shelf.img $1/shelf
            truncate -s $2 $1/shelf/disk; mkfs.ext4 -q -m 0 $1/shelf/disk; mount -o loop $1/shelf/disk $3; chmod 700 $3";
        self.disk_script(script, &[size.as_ref(), self.data_dir().as_os_str()]);
        self.small_disk = true;
    }

    fn disk_script(&self, script: &str, rest: &[&OsStr]) {
        let done = Command::new("sh").args(["-ec", script, "sh"]).arg(&self.dir).args(rest).status().expect("sh");
        assert!(done.success(), "{script}");
    }

    /// Its machine loses its power, also when its process has died of a fault point just now: everything on it ends at once,
    /// and its disk has just what it was given by then. What the kernel still held in memory for that disk is lost. (The
    /// order of writes is kept; a real disk may keep less.) What starts next starts under another boot.
    pub fn lose_power(&mut self) {
        assert!(self.small_disk, "this node's disk is everybody's");
        let mark = self.mark();
        // First, and at one moment: whatever ends may write.
        self.disk_script("cp --reflink=always $1/shelf/disk $1/shelf/disk-as-it-was", &[]);
        self.kill_9();
        mark.remove();
        // Its file systems bear the same names as those of the copy: the kernel must have forgotten them first.
        for _ in 0..500 {
            if mark.left().is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(mark.left(), Vec::<String>::new());
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
        let script = "umount -l $2 2>/dev/null || :
            mv $1/shelf/disk-as-it-was $1/shelf/disk; mount -o loop $1/shelf/disk $2
            find $2/sandboxes -type f '(' -name record.json -o -name begun ')' -exec sed -i s/$3/$4/ {} + 2>/dev/null || :";
        let another = "00000000-0000-4000-8000-000000000000";
        self.disk_script(script, &[self.data_dir().as_os_str(), boot_id.trim().as_ref(), another.as_ref()]);
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

    /// Of one that runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running node").id()
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

    /// Waits until it has ended by itself, and answers how.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running node");
        loop {
            if let Some(status) = child.try_wait().expect("waiting for a node") {
                return status;
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
            for mounted in [self.data_dir(), self.dir.join("shelf")] {
                let _ = Command::new("umount").arg("-l").arg(mounted).status();
            }
        }
    }
}
