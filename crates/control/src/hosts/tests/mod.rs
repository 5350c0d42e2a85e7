//! Promises of enrolment, rotation and heartbeats, each on both databases.

pub(crate) mod crash;
mod enrolment;
mod heartbeat;
mod lives;
mod rotation;

use std::time::Duration;

use atoll_model::api::hosts::{
    Capacity, HeartbeatRequest, HostCredentials, HostSpecs, RefreshHostRequest, RegisterHostRequest, SandboxCounts,
};
use atoll_model::{HostId, HostType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

use super::{HostError, Hosts, Loopback, NewHost};
use crate::audit::{Actor, Origin};
use crate::clock::Clock;
use crate::config::HostTimes;
use crate::db::testing::{TestDb, databases};
use crate::db::{Db, Millis, on};
use crate::pki::Authority;

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A control plane's hosts with a clock that only the test moves.
pub struct Rig {
    pub hosts: Hosts,
    pub clock: Clock,
    pub db: Db,
    _keep: TestDb,
}

/// One per database.
pub async fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    for test_db in databases().await {
        let clock = Clock::manual(Millis::from(chrono::Utc::now()));
        let authority = Authority::open(&test_db.db, clock.clone()).await.unwrap();
        let db = test_db.db.clone();
        let hosts =
            Hosts::open(db.clone(), clock.clone(), HostTimes::default(), authority, Loopback::Refused).await.unwrap();
        rigs.push(Rig { hosts, clock, db, _keep: test_db });
    }
    rigs
}

impl Rig {
    /// A new regular host and its registration token.
    pub async fn new_host(&self) -> (HostId, String) {
        let host = NewHost {
            id: HostId::new(),
            name: "reef".to_owned(),
            kind: HostType::Regular,
            team: None,
            provider: None,
            availability_zone: None,
            created_by: None,
        };
        let (row, token) = self.hosts.create(&host, &Actor::System, &Origin::default()).await.unwrap();
        (row.id.0, token.token)
    }

    /// A registered host.
    pub async fn enrolled(&self) -> Agent {
        let (_, token) = self.new_host().await;
        let mut agent = Agent::new();
        agent.register(&self.hosts, &token).await.unwrap();
        agent
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        let row: (i64,) = on!(read & self.db, |c| sqlx::query_as(sql).fetch_one(c).await).unwrap();
        row.0
    }
}

/// The agent's side of the contract, as little as is needed.
pub struct Agent {
    pub key: KeyPair,
    pub credentials: Option<HostCredentials>,
}

impl Agent {
    pub fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), credentials: None }
    }

    pub fn csr(&self) -> String {
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.serialize_request(&self.key).unwrap().pem().unwrap()
    }

    pub fn registration(&self, token: &str) -> RegisterHostRequest {
        RegisterHostRequest {
            token: token.to_owned(),
            address: "10.1.2.3:7070".to_owned(),
            specs: HostSpecs {
                arch: "x86_64".to_owned(),
                cpu_cores: 4,
                memory_mb: 8192,
                disk_gb: 100,
                drivers: vec!["container".to_owned()],
                agent_version: "0.1.0".to_owned(),
            },
            csr: self.csr(),
        }
    }

    pub async fn register(&mut self, hosts: &Hosts, token: &str) -> Result<(), HostError> {
        let credentials = hosts.register(&self.registration(token), &Origin::default()).await?;
        self.credentials = Some(credentials);
        Ok(())
    }

    pub fn credentials(&self) -> &HostCredentials {
        self.credentials.as_ref().unwrap()
    }

    pub fn id(&self) -> &HostId {
        &self.credentials().host_id
    }

    /// A request for new credentials, its bytes, and the signature over them.
    pub fn signed(&self, refresh_token: &str) -> (RefreshHostRequest, Vec<u8>, String) {
        let request = RefreshHostRequest { refresh_token: refresh_token.to_owned(), csr: self.csr(), timestamp_ms: 0 };
        let body = serde_json::to_vec(&request).unwrap();
        let signature = STANDARD.encode(self.key.sign(&body).unwrap());
        (request, body, signature)
    }

    /// Presents any refresh token, signed with this agent's key. Keeps nothing.
    pub async fn present(&self, hosts: &Hosts, refresh_token: &str) -> Result<HostCredentials, HostError> {
        let (request, body, signature) = self.signed(refresh_token);
        hosts.refresh(&request, &body, Some(&signature), &Origin::default()).await
    }

    /// Refreshes and goes on with the new credentials.
    pub async fn refresh(&mut self, hosts: &Hosts) -> Result<(), HostError> {
        let credentials = self.present(hosts, &self.credentials().refresh_token).await?;
        self.credentials = Some(credentials);
        Ok(())
    }

    pub async fn beat_with(&self, hosts: &Hosts, access_token: &str) -> Result<(), HostError> {
        hosts.heartbeat(self.id(), Some(access_token), beat()).await
    }

    pub async fn beat(&self, hosts: &Hosts) -> Result<(), HostError> {
        self.beat_with(hosts, &self.credentials().access_token).await
    }
}

pub fn beat() -> HeartbeatRequest {
    HeartbeatRequest {
        drivers: Vec::new(),
        agent_version: "0.1.0".to_owned(),
        boot_id: "b1".to_owned(),
        address: "10.1.2.3:7070".to_owned(),
        capacity: Capacity { cpu_millis: 4000, memory_mb: 8192, disk_mb: 102_400 },
        used: Capacity { cpu_millis: 1000, memory_mb: 512, disk_mb: 5120 },
        sandbox_counts: SandboxCounts { running: 1, paused: 2, other: 3 },
        sandbox_digest: "d".to_owned(),
        inventory_complete: true,
        ready: true,
        going_offline: false,
        cached_images: vec!["aa".to_owned()],
        vm_version: None,
    }
}

pub fn is_unauthorized<T>(result: Result<T, HostError>) -> bool {
    matches!(result, Err(HostError::Unauthorized))
}
