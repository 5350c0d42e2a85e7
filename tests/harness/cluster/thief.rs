//! Somebody who has copied a host's credentials from its disk, key and all, and uses them against control.

use std::net::SocketAddr;
use std::path::Path;

use atoll_model::api::hosts::{
    Capacity, HOST_SIGNATURE_HEADER, HOST_TOKEN_HEADER, HeartbeatRequest, HostCredentials, RefreshHostRequest,
    SandboxCounts,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::Value;

use super::post;

pub struct Thief {
    key: KeyPair,
    pub credentials: HostCredentials,
    control: SocketAddr,
}

impl Thief {
    /// Reads what lies in an agent's data directory.
    pub fn copy(data_dir: &Path, control: SocketAddr) -> Self {
        let text = std::fs::read(data_dir.join("credentials/host.json")).expect("the host's credentials");
        let stored: Value = serde_json::from_slice(&text).expect("JSON");
        let key = KeyPair::from_pem(stored["current"]["key"].as_str().expect("a key")).expect("a usable key");
        let credentials = serde_json::from_value(stored["current"]["credentials"].clone()).expect("credentials");
        Self { key, credentials, control }
    }

    /// Asks for new credentials, and keeps them when they come. The status.
    pub async fn renew(&mut self) -> u16 {
        let csr =
            CertificateParams::default().serialize_request(&self.key).and_then(|csr| csr.pem()).expect("a request");
        let refresh_token = self.credentials.refresh_token.clone();
        let request = RefreshHostRequest { refresh_token, csr, timestamp_ms: 0 };
        let body = serde_json::to_string(&request).expect("JSON");
        let signature = STANDARD.encode(self.key.sign(body.as_bytes()).expect("a signature"));
        let (status, answer) =
            post(self.control, "/v1/hosts/auth/refresh", &[(HOST_SIGNATURE_HEADER, &signature)], &body).await;
        if status == 200 {
            self.credentials = serde_json::from_str(&answer).expect("credentials");
        }
        status
    }

    /// Shows the access token, as the host that is at this address. The status.
    pub async fn beat(&self, address: &str) -> u16 {
        let beat = HeartbeatRequest {
            agent_version: "thief".to_owned(),
            boot_id: "thief".to_owned(),
            address: address.to_owned(),
            capacity: Capacity::default(),
            used: Capacity::default(),
            sandbox_counts: SandboxCounts::default(),
            sandbox_digest: String::new(),
            inventory_complete: false,
            ready: false,
            going_offline: false,
            cached_images: Vec::new(),
            vm_version: None,
            drivers: Vec::new(),
        };
        let path = format!("/v1/hosts/{}/heartbeat", self.credentials.host_id);
        let body = serde_json::to_string(&beat).expect("JSON");
        post(self.control, &path, &[(HOST_TOKEN_HEADER, &self.credentials.access_token)], &body).await.0
    }
}
