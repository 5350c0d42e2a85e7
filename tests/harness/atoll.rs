//! A real `atoll up` in a temporary data directory.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use atoll_client::{Client, Credentials, command};
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecResponse, Sandbox};

use crate::leaks;
use crate::replicas::{self, Second};
use crate::wait::{PATIENCE, until};

/// A running Atoll: one process, or two replicas (see `replicas`). Dropping it stops it and removes everything of it, also when the test has failed.
pub struct Atoll {
    dir: tempfile::TempDir,
    child: Child,
    args: Vec<String>,
    env: Vec<(String, String)>,
    client: Option<Client>,
    second: Option<Second>,
}

/// Set by tests that bring a binary of their own: one with fault points.
static OWN: OnceLock<PathBuf> = OnceLock::new();

/// From now on this process tests that binary.
pub fn use_binary(path: impl Into<PathBuf>) {
    let path = path.into();
    assert_eq!(*OWN.get_or_init(|| path.clone()), path, "another binary is under test already");
}

/// The binary under test: the test's own, `ATOLL_BIN`, else the newest of the workspace's builds.
pub fn binary() -> PathBuf {
    if let Some(own) = OWN.get() {
        return own.clone();
    }
    if let Some(path) = std::env::var_os("ATOLL_BIN") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["release/atoll", "debug/atoll"].map(|name| target.join(name));
    let newest = built
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    newest.expect("no atoll binary: run `cargo build --release --bin atoll`, or set ATOLL_BIN")
}

fn spawn(dir: &Path, args: &[String], env: &[(String, String)]) -> Child {
    let faults = env.iter().any(|(name, value)| name == "FAILPOINTS" && !value.is_empty());
    assert!(!faults || OWN.get().is_some(), "the binary people get has no fault points: call use_binary first");
    let log = File::options().create(true).append(true).open(dir.join("up.log")).expect("opening up.log");
    let mut command = Command::new(binary());
    command.arg("up").arg("--data-dir").arg(dir.join("data")).args(["--listen", "127.0.0.1:0"]).args(args);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    for name in ["ATOLL_URL", "ATOLL_API_KEY", "ATOLL_DATA_DIR"] {
        command.env_remove(name);
    }
    // Nothing that a test didn't ask for.
    for (name, value) in [("ATOLL_BUILD_AHEAD", "false"), ("ATOLL_SPARE_MACHINES", "0")] {
        if !env.iter().any(|(given, _)| given == name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("up.log")).stderr(log).current_dir(dir);
    command.process_group(0).spawn().expect("starting atoll up")
}

impl Atoll {
    /// Starts one with its defaults and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// Starts one with further arguments and environment, and waits until it is ready.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-test-").tempdir_in("/var/tmp").expect("temporary directory");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let second = replicas::wanted().then(|| Second::prepare(dir.path()));
        env.extend(second.as_ref().map(|second| ("ATOLL_DATABASE_URL".to_owned(), second.database_url())));
        let child = spawn(dir.path(), &args, &env);
        let mut atoll = Self { dir, child, args, env, client: None, second };
        atoll.wait_ready().await;
        if let Some(second) = &mut atoll.second {
            let mut credentials = Credentials::read(&atoll.dir.path().join("data/credentials.json")).expect("written");
            credentials.url = second.start(atoll.dir.path(), &atoll.args, &credentials.url).await;
            atoll.client = Some(Client::new(&credentials).expect("client"));
        }
        atoll
    }

    /// Starts one that dies at a fault point of its first start, and then starts it again as it always was.
    pub async fn start_after_dying_at(point: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-test-").tempdir_in("/var/tmp").expect("temporary directory");
        let fault = [("FAILPOINTS".to_owned(), format!("{point}=return(abort)"))];
        let mut dying = spawn(dir.path(), &[], &fault);
        let begin = Instant::now();
        while dying.try_wait().expect("waiting for atoll up").is_none() {
            assert!(begin.elapsed() < PATIENCE, "it did not die at {point}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let child = spawn(dir.path(), &[], &[]);
        let mut atoll = Self { dir, child, args: Vec::new(), env: Vec::new(), client: None, second: None };
        atoll.wait_ready().await;
        atoll
    }

    async fn wait_ready(&mut self) {
        let begin = Instant::now();
        // The first start on a machine makes the base template.
        let patience = PATIENCE * 5;
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for atoll up") {
                panic!("atoll up ended with {status}:\n{}", self.log());
            }
            if let Ok(credentials) = Credentials::read(&self.data_dir().join("credentials.json")) {
                let client = Client::new(&credentials).expect("client");
                if client.ready().await.is_ok() {
                    self.client = Some(client);
                    return;
                }
            }
            assert!(begin.elapsed() < patience, "not ready after {patience:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory of the test's own, removed at the end.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.dir.path().join("scratch");
        std::fs::create_dir_all(&scratch).expect("scratch directory");
        scratch
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("started")
    }

    pub fn credentials(&self) -> Credentials {
        Credentials::read(&self.data_dir().join("credentials.json")).expect("credentials.json")
    }

    /// What `atoll up` has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// The command line of the binary under test, talking to this Atoll.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env("ATOLL_DATA_DIR", self.data_dir()).current_dir(self.dir.path());
        command.env_remove("ATOLL_URL").env_remove("ATOLL_API_KEY").stdin(Stdio::null());
        command
    }

    /// SIGKILL to `atoll up`; its sandboxes are not told.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("killing atoll up");
        self.child.wait().expect("waiting for atoll up");
    }

    /// A reboot of the host: all that one takes is gone, and records are as they look from the next boot.
    pub fn reboot_host(&mut self) {
        let mark = leaks::Mark::of(&self.data_dir());
        self.kill_9();
        mark.remove();
        assert_eq!(mark.left(), Vec::<String>::new());
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
        for entry in std::fs::read_dir(self.data_dir().join("sandboxes")).expect("records").flatten() {
            let path = entry.path().join("record.json");
            let record = std::fs::read_to_string(&path).expect("a record");
            assert!(record.contains(boot_id.trim()), "a record tells under which boot its processes run");
            let next = record.replace(boot_id.trim(), "00000000-0000-4000-8000-000000000000");
            std::fs::write(&path, next).expect("writing");
        }
    }

    /// Later starts have nothing of this name in their environment.
    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(set, _)| set != name);
    }

    /// Waits until it has died by itself.
    pub async fn dies(&mut self) {
        let begin = Instant::now();
        while self.child.try_wait().expect("waiting for atoll up").is_none() {
            assert!(begin.elapsed() < PATIENCE, "atoll up doesn't end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it again on the same data directory and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.dir.path(), &self.args, &self.env);
        self.wait_ready().await;
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
        self.dies().await;
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the pid is our own child, not yet waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    pub async fn sandbox(&self) -> Sandbox {
        self.sandbox_with(CreateSandboxRequest::default()).await
    }

    pub async fn sandbox_with(&self, request: CreateSandboxRequest) -> Sandbox {
        match self.client().create_sandbox(&request).await {
            Ok(sandbox) => sandbox,
            Err(error) => panic!("creating a sandbox: {error}\n{}", self.log()),
        }
    }

    /// Runs a shell script as the default user, whatever its exit code.
    pub async fn sh(&self, id: &SandboxId, script: &str) -> ExecResponse {
        self.sh_as(id, None, script).await
    }

    /// Runs a shell script as root of the sandbox.
    pub async fn root(&self, id: &SandboxId, script: &str) -> ExecResponse {
        self.sh_as(id, Some("root"), script).await
    }

    async fn sh_as(&self, id: &SandboxId, user: Option<&str>, script: &str) -> ExecResponse {
        let mut request = command("/bin/bash", ["-c", script]);
        request.user = user.map(str::to_owned);
        request.timeout_sec = Some(120);
        match self.client().exec(id, &request).await {
            Ok(answer) => answer,
            Err(error) => panic!("running {script:?}: {error}\n{}", self.log()),
        }
    }

    /// Asserts that a sandbox does useful work: what a neighbour of a misbehaving one must always do.
    pub async fn assert_well(&self, id: &SandboxId) {
        let answer = self.sh(id, "echo well > /tmp/well && cat /tmp/well && python3 -c 'print(6*7)'").await;
        assert_eq!((answer.exit_code, answer.stdout.as_str()), (0, "well\n42\n"), "{answer:?}");
    }

    /// Destroys every sandbox, stops Atoll, and asserts that nothing of it is left on the machine.
    pub async fn stop_and_check(mut self) {
        let list = self.client().list_sandboxes(&atoll_client::ListSandboxes::default()).await.expect("listing");
        for sandbox in list.items {
            self.client().destroy_sandbox(&sandbox.id).await.expect("destroying");
        }
        let mark = leaks::Mark::of(&self.data_dir());
        // What lives when Atoll is told to stop lives on: that is no leak, so nothing may live any more.
        until("every sandbox to be destroyed, those of builds too", || async {
            mark.sandboxes().is_empty().then_some(())
        })
        .await;
        if let Some(second) = &mut self.second {
            second.stop();
        }
        self.terminate().await;
        until(&format!("nothing to be left; still there: {:?}", mark.left()), || async {
            mark.left().is_empty().then_some(())
        })
        .await;
    }
}

impl Drop for Atoll {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- atoll up's log:\n{}", self.log());
            if self.second.is_some() {
                let log = std::fs::read_to_string(self.dir.path().join("second.log")).unwrap_or_default();
                eprintln!("--- the second replica's log:\n{log}");
            }
        }
        let mark = leaks::Mark::of(&self.data_dir());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Before the directory in which its database is.
        self.second = None;
        mark.remove();
    }
}
