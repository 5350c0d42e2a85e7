//! A PostgreSQL of a test's own, on a socket in the test's directory. It can be killed and started again, and have a
//! standby that takes its place.

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

/// Starts the one whose data and socket are in this directory.
fn run_in(directory: &Path) {
    let options = format!(
        "-F -c listen_addresses='' -c unix_socket_directories='{}' -c max_connections=200",
        directory.display()
    );
    let (data, log) = (directory.join("data").display().to_string(), directory.join("log").display().to_string());
    run("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &options, "start"]);
}

impl Postgres {
    pub fn start(dir: &Path) -> Self {
        let root = dir.join("postgres");
        std::fs::create_dir_all(&root).expect("a directory for PostgreSQL");
        for (path, mode) in [(dir, 0o711), (&root, 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        }
        let postgres = Self { root };
        std::os::unix::fs::symlink(&postgres.root, postgres.address()).expect("the database's address");
        let data = postgres.data();
        run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]);
        postgres.run();
        postgres
    }

    fn data(&self) -> String {
        self.root.join("data").display().to_string()
    }

    fn standby(&self) -> PathBuf {
        self.root.join("standby")
    }

    /// Where clients find whichever of the two is in charge: a link to the directory with its socket.
    fn address(&self) -> PathBuf {
        self.root.join("address")
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.address().display())
    }

    /// Starts it, after [`Postgres::kill`] with all that it had committed.
    pub fn run(&self) {
        run_in(&self.root);
    }

    /// A standby of its own that has all that is committed from now on before anybody hears that it is.
    pub async fn add_standby(&self) {
        let (socket, data) = (self.root.display().to_string(), self.standby().join("data").display().to_string());
        run("pg_basebackup", &["-h", &socket, "-U", "postgres", "-D", &data, "-R", "-c", "fast", "--no-sync"]);
        run_in(&self.standby());
        self.query("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.query("SELECT pg_reload_conf()");
        until("the standby to follow", || async {
            (self.query("SELECT sync_state FROM pg_stat_replication") == "sync").then_some(())
        })
        .await;
    }

    /// The one in charge dies at once, and the standby takes its place under the same address.
    pub fn fail_over(&self) {
        self.kill();
        run("pg_ctl", &["-D", &self.standby().join("data").display().to_string(), "-w", "promote"]);
        let link = self.root.join("new-address");
        std::os::unix::fs::symlink(self.standby(), &link).expect("a link to the standby");
        std::fs::rename(link, self.address()).expect("moving the database's address");
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
        // They name a process that may be there still, dead but not yet taken note of by its parent: PostgreSQL would take it
        // for one that runs, and not start.
        for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            std::fs::remove_file(self.root.join(lock)).expect("a lock of PostgreSQL");
        }
    }

    /// What a query answers: a row per line, columns with `|` between.
    pub fn query(&self, sql: &str) -> String {
        let host = self.address().display().to_string();
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
        for data in [self.standby().join("data"), self.root.join("data")] {
            let running = std::fs::read_to_string(data.join("postmaster.pid")).ok();
            let pid = running.and_then(|text| text.lines().next()?.trim().parse().ok());
            if pid.is_some_and(|pid| !gone(pid)) {
                run("pg_ctl", &["-D", &data.display().to_string(), "-m", "immediate", "-w", "stop"]);
            }
        }
    }
}
