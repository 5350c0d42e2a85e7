//! A PostgreSQL of the cluster's own, on a socket in the cluster's directory. It can be killed and started again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Postgres {
    root: PathBuf,
}

fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.flatten().map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).max();
    newest.unwrap_or_else(|| panic!("PostgreSQL's {name} is installed"))
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &str, arguments: &[&str]) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(binary(program)).args(arguments);
    let output = command.env_remove("PGHOST").current_dir("/").output().expect("setpriv");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
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
        as_postgres("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]);
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
        as_postgres("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        as_postgres("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.root.join("data/postmaster.pid").exists() {
            self.kill();
        }
    }
}
