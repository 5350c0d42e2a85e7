//! Enrolment, section 2 of the contract.

use atoll_model::HostId;

use super::*;
use crate::agent::enrolment::is_wanted;
use toy_control::{Ca, Says, public_key};

#[tokio::test]
async fn a_host_enrols_and_keeps_what_it_got() {
    let Enrolled { dir, store, control } = enrolled().await;
    let stored = store.load().unwrap();
    assert_eq!(*stored.current.host_id(), control.with(|state| state.host.clone()));
    let again = CredentialStore::open(dir.path()).unwrap();
    assert_eq!(again.load().unwrap().current.credentials.access_token, "access-1");
    // The token that still stands in the environment is not tried again.
    assert!(!is_wanted(&again, &control.with(|state| state.ca.registration_token())));
}

#[tokio::test]
async fn a_host_enrols_with_nobody_who_does_not_hold_the_ca_of_the_token() {
    let control = ToyControl::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = CredentialStore::open(dir.path()).unwrap();
    let shutdown = CancellationToken::new();
    let other = Ca::new().registration_token();
    let url = control.url();
    let attempt = try_enrol(&store, &url, &other, false, &shutdown);
    let gave_up = tokio::select! {
        result = attempt => result.unwrap(),
        // Long enough for an attempt; what is promised is that nothing is ever said to this control.
        () = tokio::time::sleep(std::time::Duration::from_millis(300)) => false,
    };
    assert!(!gave_up);
    assert!(control.with(|state| state.asked.registrations.is_empty()));
    assert!(store.load().is_none());
}

#[tokio::test]
async fn a_used_token_is_refused_and_the_message_says_what_to_do() {
    let Enrolled { control, .. } = enrolled().await;
    let dir = tempfile::tempdir().unwrap();
    let store = CredentialStore::open(dir.path()).unwrap();
    let token = control.with(|state| state.ca.registration_token());
    let error = try_enrol(&store, &control.url(), &token, false, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("atoll host --register TOKEN"), "{error}");
    // The retry comes with the same key.
    let _ = try_enrol(&store, &control.url(), &token, false, &CancellationToken::new()).await;
    let keys = control.with(|state| state.asked.registrations[1..].to_vec());
    assert_eq!(public_key(&keys[0]), public_key(&keys[1]));
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_again_with_the_same_key() {
    let control = ToyControl::start().await;
    control.with(|state| state.register = Says::Lost);
    let dir = tempfile::tempdir().unwrap();
    let (url, token) = (control.url(), control.with(|state| state.ca.registration_token()));
    let store = Arc::new(CredentialStore::open(dir.path()).unwrap());
    let enrolling = tokio::spawn({
        let store = store.clone();
        async move { try_enrol(&store, &url, &token, false, &CancellationToken::new()).await }
    });
    control.until(|state| state.asked.registrations.len() >= 2).await;
    control.with(|state| state.register = Says::Truth);
    assert!(enrolling.await.unwrap().unwrap());
    let access = store.load().unwrap().current.credentials.access_token.clone();
    assert_eq!(access, control.with(|state| state.access.clone()));
    let keys = control.with(|state| state.asked.registrations.iter().map(|csr| public_key(csr)).collect::<Vec<_>>());
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[tokio::test]
async fn a_refused_token_leaves_an_enrolled_host_as_it_is() {
    let Enrolled { dir: _dir, store, control } = enrolled().await;
    let token = control.with(|state| state.ca.registration_token());
    assert!(try_enrol(&store, &control.url(), &token, false, &CancellationToken::new()).await.unwrap());
    assert_eq!(store.load().unwrap().current.credentials.access_token, "access-1");
}

#[tokio::test]
async fn a_host_with_sandboxes_does_not_become_another_host() {
    let first = enrolled().await;
    let other = ToyControl::start().await;
    other.with(|state| state.host = HostId::new());
    let token = other.with(|state| state.ca.registration_token());
    let error = try_enrol(&first.store, &other.url(), &token, true, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("holds sandboxes"), "{error}");
    assert_eq!(*first.store.load().unwrap().current.host_id(), first.control.with(|state| state.host.clone()));
}
