//! A second replica for the Atoll of a test: with `ATOLL_TEST_REPLICAS=2` in the environment, `atoll up` works on a
//! PostgreSQL, there is an `atoll server` beside it on the same one, and the test speaks to both in turn through a load
//! balancer.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use atoll_client::{Auth, Client, Endpoint};

use crate::atoll::binary;
use crate::balancer::Balancer;
use crate::cluster::Postgres;
use crate::wait::until;

/// Whether tests are to be run against two replicas.
pub fn wanted() -> bool {
    std::env::var("ATOLL_TEST_REPLICAS").is_ok_and(|count| count == "2")
}

/// A PostgreSQL of the test's own and, once it has started, the second replica with the load balancer.
pub struct Second {
    replica: Option<(Child, Balancer)>,
    database: Postgres,
}

impl Second {
    /// Starts the database.
    pub fn prepare(dir: &Path) -> Self {
        Self { replica: None, database: Postgres::start(dir) }
    }

    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// Starts the replica beside the Atoll of `first`, whose folder of images it shares, and the load balancer. Answers
    /// with its address.
    pub async fn start(&mut self, dir: &Path, args: &[String], first: &str) -> String {
        let (data, log) = (dir.join("second"), dir.join("second.log"));
        std::fs::create_dir_all(&data).expect("the second replica's directory");
        std::os::unix::fs::symlink(dir.join("data/objects"), data.join("objects")).expect("the shared folder");
        let file = File::options().create(true).append(true).open(&log).expect("second.log");
        let mut command = Command::new(binary());
        command.args(["server", "--json", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).args(args);
        command.env("ATOLL_DATABASE_URL", self.database_url());
        for name in ["ATOLL_URL", "ATOLL_API_KEY", "ATOLL_DATA_DIR"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("second.log")).stderr(file).current_dir(dir);
        let child = command.process_group(0).spawn().expect("starting atoll server");
        let own = until("the second replica to say its address", || async {
            let log = std::fs::read_to_string(&log).ok()?;
            let line = log.lines().find(|line| line.contains("\"setup_token\""))?;
            let said: serde_json::Value = serde_json::from_str(line).ok()?;
            said["url"].as_str().map(str::to_owned)
        })
        .await;
        let client = Client::to(Endpoint::parse(&own).expect("its address"), Auth::Nobody).expect("a client");
        until("the second replica to be ready", || async { client.ready().await.ok() }).await;
        let address = |url: &str| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let balancer = Balancer::start(dir, &[address(first), address(&own)]);
        let url = balancer.url();
        self.replica = Some((child, balancer));
        url
    }

    /// Ends replica and load balancer. The database goes with the value.
    pub fn stop(&mut self) {
        if let Some((mut child, balancer)) = self.replica.take() {
            drop(balancer);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.stop();
    }
}
