//! A PostgreSQL of a test's own, on a socket in the test's directory. It can be killed and started again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::wait::until;

pub struct Postgres {
    root: PathBuf,
}

fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.flatten().map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).max();
    newest.unwrap_or_else(|| panic!("PostgreSQL's {name} is installed"))
}

/// A program of PostgreSQL, which refuses to run as root.
fn as_postgres(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(binary(program)).args(arguments);
    command.env_remove("PGHOST").current_dir("/");
    command
}

fn run(program: &str, arguments: &[&str]) {
    let output = as_postgres(program, arguments).output().expect("setpriv");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

fn children(parent: i32) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| stat(*pid).and_then(|stat| stat.get(1)?.parse().ok()) == Some(parent)).collect()
}

/// What follows a process's name in its `stat`: state, parent, ...
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn gone(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| stat[0] == "Z")
}

impl Postgres {
    pub fn start(dir: &Path) -> Self {
        let root = dir.join("postgres");
        std::fs::create_dir_all(&root).expect("a directory for PostgreSQL");
        for (path, mode) in [(dir, 0o711), (&root, 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        }
        let postgres = Self { root };
        let data = postgres.data();
        run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]);
        postgres.run();
        postgres
    }

    fn data(&self) -> String {
        self.root.join("data").display().to_string()
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.root.display())
    }

    /// Starts it, after [`Postgres::kill`] with all that it had committed.
    pub fn run(&self) {
        let options = format!(
            "-F -c listen_addresses='' -c unix_socket_directories='{}' -c max_connections=200",
            self.root.display()
        );
        let log = self.root.join("log").display().to_string();
        run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    /// SIGKILL to all of its processes. What was committed is there when it [runs](Postgres::run) again.
    pub async fn kill_9(&self) {
        let pid = std::fs::read_to_string(self.root.join("data/postmaster.pid")).expect("its pid");
        let postmaster: i32 = pid.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("a pid");
        // SAFETY: kill has no memory effects; the processes are of the PostgreSQL that this value started.
        let signal = |pid: i32, number: i32| unsafe { libc::kill(pid, number) };
        // Stopped first, so that it forks no more: a backend that outlived the others would wait for their locks for ever.
        signal(postmaster, libc::SIGSTOP);
        let mut all = children(postmaster);
        all.push(postmaster);
        for pid in &all {
            signal(*pid, libc::SIGKILL);
        }
        until("PostgreSQL's processes to be gone", || async { all.iter().all(|pid| gone(*pid)).then_some(()) }).await;
    }

    /// What a query answers: a row per line, columns with `|` between.
    pub fn query(&self, sql: &str) -> String {
        let host = self.root.display().to_string();
        let mut command =
            as_postgres("psql", &["-h", &host, "-U", "postgres", "-XAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = command.output().expect("psql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.root.join("data/postmaster.pid").exists() {
            self.kill();
        }
    }
}
