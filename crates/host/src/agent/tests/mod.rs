//! The agent's side of the contract with control, tried against a toy control over real TLS.

mod contact;
#[cfg(feature = "failpoints")]
mod crashing;
mod enrolment;
mod listening;
mod toy_control;

use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::credentials::CredentialStore;
use super::endpoint::Endpoint;
use super::enrolment::{Enrolment, enrol};
use super::machine_specs::specs;
use super::registration_token::RegistrationToken;
use toy_control::ToyControl;

/// A host that has enrolled with a toy control.
struct Enrolled {
    dir: TempDir,
    store: Arc<CredentialStore>,
    control: ToyControl,
}

async fn enrolled() -> Enrolled {
    let control = ToyControl::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(CredentialStore::open(dir.path()).unwrap());
    let token = control.with(|state| state.ca.registration_token());
    assert!(try_enrol(&store, &control.url(), &token, false, &CancellationToken::new()).await.unwrap());
    Enrolled { dir, store, control }
}

async fn try_enrol(
    store: &CredentialStore,
    url: &str,
    token: &RegistrationToken,
    has_sandboxes: bool,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    let endpoint = Endpoint::parse(url).unwrap();
    let specs = specs(std::path::Path::new("/"), "0", &["container".to_owned()]);
    let enrolment = Enrolment { endpoint: &endpoint, token, address: "127.0.0.1:1".to_owned(), specs, has_sandboxes };
    enrol(store, enrolment, shutdown).await
}
