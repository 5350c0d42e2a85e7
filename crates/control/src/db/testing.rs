//! Databases for tests: a fresh SQLite file, and a fresh database in a real PostgreSQL: the one whose socket is in
//! `ATOLL_TEST_POSTGRES` (`scripts/test.sh` starts one for all tests), else one that is started once per test process
//! on a socket in a temporary directory.
//!
//! A test that must hold on both is written once: `for db in databases().await { ... }`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::Db;

/// A database and what must live as long as it does.
pub struct TestDb {
    pub db: Db,
    pub url: Option<String>,
    pub dir: tempfile::TempDir,
}

/// An empty SQLite database with the current schema.
pub async fn sqlite() -> TestDb {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Db::open(None, dir.path()).await.expect("a fresh SQLite database");
    TestDb { db, url: None, dir }
}

/// An empty PostgreSQL database with the current schema.
pub async fn postgres() -> TestDb {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = empty_postgres().await;
    let db = Db::open(Some(&url), dir.path()).await.expect("the schema in PostgreSQL");
    TestDb { db, url: Some(url), dir }
}

/// The address of a PostgreSQL database with nothing in it.
pub async fn empty_postgres() -> String {
    tokio::task::spawn_blocking(fresh_postgres_database).await.expect("a fresh PostgreSQL database")
}

/// One of each.
pub async fn databases() -> Vec<TestDb> {
    vec![sqlite().await, postgres().await]
}

struct Cluster {
    socket_dir: PathBuf,
}

fn fresh_postgres_database() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| match std::env::var_os("ATOLL_TEST_POSTGRES") {
        Some(socket_dir) => Cluster { socket_dir: socket_dir.into() },
        None => start_cluster(),
    });
    let name = format!("t{}", rand::random::<u64>());
    run_as_postgres(&binary("createdb"), &["-h", &cluster.socket_dir.display().to_string(), "-U", "postgres", &name]);
    format!("postgres://postgres@localhost/{name}?host={}", cluster.socket_dir.display())
}

fn binary(name: &str) -> PathBuf {
    let newest = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed (apt-get install postgresql)")
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.exists())
        .max();
    newest.unwrap_or_else(|| panic!("PostgreSQL's {name} is installed"))
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.env_remove("PGHOST").current_dir("/");
    command
}

fn run_as_postgres(program: &Path, arguments: &[&str]) {
    let output = as_postgres(program).args(arguments).output().expect("setpriv runs");
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The server ends with the test process: a small shell waits for the process to be gone, stops it and removes its
/// directory, since a test process has no hook that runs at its end.
fn start_cluster() -> Cluster {
    let root = std::env::temp_dir().join(format!("atoll-test-postgres-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory for PostgreSQL");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).expect("open to the user postgres");
    let data = root.join("data").display().to_string();
    let socket_dir = root.display().to_string();
    run_as_postgres(&binary("initdb"), &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]);
    let options = format!("-F -c listen_addresses='' -c unix_socket_directories='{socket_dir}' -c max_connections=400");
    let log = root.join("log").display().to_string();
    run_as_postgres(&binary("pg_ctl"), &["-D", &data, "-w", "-l", &log, "-o", &options, "start"]);
    let script = format!(
        "while kill -0 {pid} 2>/dev/null; do sleep 0.5; done; \
         setpriv --reuid=postgres --regid=postgres --clear-groups -- {ctl} -D {data} -m immediate stop; rm -rf {socket_dir}",
        pid = std::process::id(),
        ctl = binary("pg_ctl").display(),
    );
    // In a session of its own, and without the test's output, so that nobody waits for it. `setsid --fork` ends at once.
    let status = Command::new("setsid")
        .arg("--fork")
        .args(["sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("setsid runs");
    assert!(status.success(), "the shell that cleans up starts");
    Cluster { socket_dir: root }
}
