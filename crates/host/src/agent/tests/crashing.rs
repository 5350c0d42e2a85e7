//! An agent that dies in the middle of enrolling or renewing: what it left on its disk is enough for the next one to go
//! on. Runs with `--features failpoints`; a step that fails there does nothing of what would have come after it.

use tokio::sync::watch;

use super::*;
use crate::agent::control::{ControlApi, HttpControl};
use crate::agent::enrolment::is_wanted;
use crate::agent::heartbeat::decision::Observation;
use crate::agent::renewal::Renewal;
use crate::agent::trust::Trust;
use atoll_model::api::hosts::{Capacity, HeartbeatRequest, SandboxCounts};

/// As a new process finds it.
fn found(dir: &TempDir) -> Arc<CredentialStore> {
    Arc::new(CredentialStore::open(dir.path()).unwrap())
}

fn renewal(store: &Arc<CredentialStore>, url: &str) -> (Renewal, Arc<HttpControl>) {
    let trust = Trust::in_ca(&store.load().unwrap().current.credentials.ca).unwrap();
    let control = Arc::new(HttpControl::new(Endpoint::parse(url).unwrap(), &trust, "0").unwrap());
    (Renewal { control: control.clone(), store: store.clone(), renewed: watch::channel(()).0 }, control)
}

/// Whether control takes a heartbeat with what the store holds.
async fn is_let_in(store: &CredentialStore, control: &HttpControl) -> bool {
    let beat = HeartbeatRequest {
        agent_version: "0".to_owned(),
        boot_id: "b".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        capacity: Capacity::default(),
        used: Capacity::default(),
        sandbox_counts: SandboxCounts::default(),
        sandbox_digest: String::new(),
        inventory_complete: true,
        ready: true,
        going_offline: false,
        cached_images: Vec::new(),
        vm_version: None,
        drivers: Vec::new(),
    };
    let current = &store.load().unwrap().current;
    let answer = control.heartbeat(current.host_id(), &current.credentials.access_token, &beat).await;
    answer.unwrap() == crate::agent::control::HeartbeatAnswer::Accepted
}

#[tokio::test]
async fn an_agent_that_dies_anywhere_in_its_enrolment_goes_on_with_the_same_token() {
    for point in ["agent.enrol.before_request", "agent.enrol.before_save", "agent.enrol.after_save"] {
        let control = ToyControl::start().await;
        let dir = tempfile::tempdir().unwrap();
        let token = control.with(|state| state.ca.registration_token());
        let shutdown = CancellationToken::new();
        fail::cfg(point, "return").unwrap();
        let died = try_enrol(&found(&dir), &control.url(), &token, false, &shutdown).await;
        fail::remove(point);
        assert!(died.is_err(), "{point}");
        let store = found(&dir);
        assert_eq!(is_wanted(&store, &token), point != "agent.enrol.after_save", "{point}");
        if is_wanted(&store, &token) {
            assert!(try_enrol(&store, &control.url(), &token, false, &shutdown).await.unwrap(), "{point}");
        }
        let store = found(&dir);
        let (renewal, http) = renewal(&store, &control.url());
        assert!(is_let_in(&store, &http).await, "{point}");
        assert_eq!(renewal.renew().await, Observation::Renewed, "{point}");
    }
}

#[tokio::test]
async fn an_agent_that_dies_anywhere_in_a_renewal_is_still_let_in() {
    for point in ["agent.refresh.before_save", "agent.refresh.after_save"] {
        let Enrolled { dir, store, control } = enrolled().await;
        let url = control.url();
        fail::cfg(point, "return").unwrap();
        assert_eq!(renewal(&store, &url).0.renew().await, Observation::RefreshFailed, "{point}");
        fail::remove(point);
        drop(store);
        let store = found(&dir);
        let stored = store.load().unwrap();
        let saved = point == "agent.refresh.after_save";
        assert_eq!(stored.current.credentials.access_token, if saved { "access-2" } else { "access-1" }, "{point}");
        // The former are there until the new ones have worked.
        assert_eq!(stored.former.is_some(), saved, "{point}");
        let (renewal, http) = renewal(&store, &url);
        assert_eq!(renewal.renew().await, Observation::Renewed, "{point}");
        assert!(is_let_in(&found(&dir), &http).await, "{point}");
        assert_eq!(control.with(|state| state.asked.bad_signatures), 0);
    }
}

#[tokio::test]
async fn when_new_credentials_never_worked_the_former_ones_are_tried() {
    let Enrolled { dir, store, control } = enrolled().await;
    fail::cfg("agent.refresh.after_save", "return").unwrap();
    renewal(&store, &control.url()).0.renew().await;
    fail::remove("agent.refresh.after_save");
    // Control has lost what it issued last: a database that was set back to a backup.
    control.with(|state| {
        state.refresh_tokens.retain(|token| token == "refresh-1");
        "access-1".clone_into(&mut state.access);
    });
    let store = found(&dir);
    let (renewal, http) = renewal(&store, &control.url());
    assert!(!is_let_in(&store, &http).await);
    assert_eq!(renewal.renew().await, Observation::Renewed);
    assert!(is_let_in(&store, &http).await);
}
