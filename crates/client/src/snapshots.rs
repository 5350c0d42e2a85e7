//! Snapshots, forks, and what sandboxes may reach.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::Page;
use atoll_model::api::sandboxes::{ForkRequest, ForkResponse, Sandbox, SetNetworkRequest};
use atoll_model::api::snapshots::{CreateSnapshotRequest, Snapshot};
use http::Method;

use crate::transport::{DEADLINE, encode, query};
use crate::{Client, Error};

/// A hundred children, each with the patience of a create.
const FORK_DEADLINE: Duration = Duration::from_secs(300);

impl Client {
    /// Keeps a sandbox's files under a name. `overwrite`: in place of a snapshot of that name.
    pub async fn create_snapshot(&self, request: &CreateSnapshotRequest, overwrite: bool) -> Result<Snapshot, Error> {
        let query = query(&[("overwrite", overwrite.then(|| "true".to_owned()))]);
        self.json(Method::POST, &format!("/v1/snapshots{query}"), Some(request), FORK_DEADLINE).await
    }

    pub async fn list_snapshots(&self, cursor: Option<&str>) -> Result<Page<Snapshot>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("cursor", cursor.map(str::to_owned))]);
        self.get(&format!("/v1/snapshots{query}")).await
    }

    pub async fn get_snapshot(&self, name: &str) -> Result<Snapshot, Error> {
        self.get(&format!("/v1/snapshots/{}", encode(name))).await
    }

    pub async fn delete_snapshot(&self, name: &str) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/snapshots/{}", encode(name)), None::<&()>, DEADLINE).await
    }

    /// Children that start from the files that the sandbox has now.
    pub async fn fork_sandbox(&self, id: &SandboxId, request: &ForkRequest) -> Result<ForkResponse, Error> {
        self.json(Method::POST, &format!("/v1/sandboxes/{id}/fork"), Some(request), FORK_DEADLINE).await
    }

    /// Replaces what the sandbox may reach.
    pub async fn set_network(&self, id: &SandboxId, request: &SetNetworkRequest) -> Result<Sandbox, Error> {
        self.json(Method::PUT, &format!("/v1/sandboxes/{id}/network"), Some(request), DEADLINE).await
    }
}
