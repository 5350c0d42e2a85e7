//! Heartbeat and renewal, sections 3 and 4 of the contract, as they really travel.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::api::hosts::{Capacity, HeartbeatRequest, SandboxCounts};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::agent::control::HttpControl;
use crate::agent::heartbeat::decision::{PauseCause, Timing};
use crate::agent::heartbeat::memory::ContactMemory;
use crate::agent::heartbeat::{Body, End, Heartbeat};
use crate::agent::renewal::Renewal;
use crate::agent::trust::Trust;
use crate::config::OnDisconnect;
use toy_control::{Ca, Says};

struct FakeBody {
    welcome: AtomicBool,
    out_of_contact: AtomicBool,
    /// Something can't be paused.
    resists: AtomicBool,
    paused: watch::Sender<Vec<PauseCause>>,
    news: watch::Sender<()>,
    reports: Mutex<u64>,
}

#[async_trait]
impl Body for FakeBody {
    fn report(&self) -> HeartbeatRequest {
        *self.reports.lock().unwrap() += 1;
        HeartbeatRequest {
            drivers: vec!["container".to_owned()],
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
        }
    }

    async fn news(&self) {
        let mut news = self.news.subscribe();
        let _changed = news.changed().await;
    }

    fn accept_work(&self, accept: bool) {
        self.welcome.store(accept, Ordering::SeqCst);
    }

    fn out_of_contact(&self, lost: bool) {
        self.out_of_contact.store(lost, Ordering::SeqCst);
    }

    async fn pause_all(&self, cause: PauseCause) -> bool {
        self.paused.send_modify(|causes| causes.push(cause));
        !self.resists.load(Ordering::SeqCst)
    }
}

struct Beating {
    host: Enrolled,
    body: Arc<FakeBody>,
    shutdown: CancellationToken,
    task: JoinHandle<End>,
}

async fn beating(disconnect_after: Duration) -> Beating {
    beating_as(enrolled().await, disconnect_after).await
}

async fn beating_as(host: Enrolled, disconnect_after: Duration) -> Beating {
    beating_every(Duration::from_millis(20), host, disconnect_after).await
}

async fn beating_every(interval: Duration, host: Enrolled, disconnect_after: Duration) -> Beating {
    let stored = host.store.load().unwrap();
    let trust = Trust::in_ca(&stored.current.credentials.ca).unwrap();
    let control = Arc::new(HttpControl::new(Endpoint::parse(&host.control.url()).unwrap(), &trust, "0").unwrap());
    let body = Arc::new(FakeBody {
        welcome: AtomicBool::new(true),
        out_of_contact: AtomicBool::new(false),
        resists: AtomicBool::new(false),
        paused: watch::channel(Vec::new()).0,
        news: watch::channel(()).0,
        reports: Mutex::default(),
    });
    let heartbeat = Heartbeat {
        control: control.clone(),
        store: host.store.clone(),
        renewal: Renewal { control, store: host.store.clone(), renewed: watch::channel(()).0 },
        body: body.clone(),
        memory: ContactMemory::new(host.dir.path(), "b".to_owned()),
        timing: Timing { interval, disconnect_after, on_disconnect: OnDisconnect::Pause },
        interval_override: Some(interval),
        server_url: host.control.url(),
        heard: tokio::sync::watch::Sender::new(false),
    };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(heartbeat.run(shutdown.clone()));
    Beating { host, body, shutdown, task }
}

const LONG: Duration = Duration::from_secs(3600);

async fn paused(body: &FakeBody) -> Vec<PauseCause> {
    let mut paused = body.paused.subscribe();
    paused.wait_for(|causes| !causes.is_empty()).await.unwrap().clone()
}

#[tokio::test]
async fn a_host_beats_and_says_when_it_goes_offline() {
    let beating = beating(LONG).await;
    let control = &beating.host.control;
    control.until(|state| state.asked.beats.len() >= 3).await;
    assert!(control.with(|state| state.asked.beats.iter().all(|beat| !beat.going_offline)));
    beating.shutdown.cancel();
    assert_eq!(beating.task.await.unwrap(), End::ShutDown);
    assert!(control.with(|state| state.asked.beats.last().unwrap().going_offline));
}

#[tokio::test]
async fn what_control_waits_for_is_told_at_once() {
    let beating = beating_every(LONG, enrolled().await, LONG).await;
    let control = &beating.host.control;
    control.until(|state| state.asked.beats.len() == 1).await;
    while beating.body.news.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    beating.body.news.send_replace(());
    control.until(|state| state.asked.beats.len() == 2).await;
}

#[tokio::test]
async fn a_401_leads_to_a_signed_refresh_and_the_new_credentials_are_used_and_stored() {
    let beating = beating(LONG).await;
    let Enrolled { control, store, dir } = &beating.host;
    control.with(|state| state.access = "revoked".to_owned());
    control.until(|state| state.access == "access-2" && state.asked.refreshes.len() == 1).await;
    let before = control.with(|state| state.asked.beats.len());
    control.until(|state| state.asked.beats.len() > before + 2).await;
    assert_eq!(control.with(|state| state.asked.bad_signatures), 0);
    assert_eq!(store.load().unwrap().current.credentials.access_token, "access-2");
    // The new have worked: the former are forgotten.
    let on_disk = CredentialStore::open(dir.path()).unwrap().load().unwrap();
    assert_eq!(on_disk.current.credentials.access_token, "access-2");
    assert!(on_disk.former.is_none());
    assert!(beating.body.welcome.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_lost_refresh_answer_locks_nobody_out() {
    let beating = beating(LONG).await;
    let control = &beating.host.control;
    control.with(|state| {
        state.access = "revoked".to_owned();
        state.refresh = Says::Lost;
    });
    control.until(|state| state.asked.refreshes.len() >= 2).await;
    control.with(|state| state.refresh = Says::Truth);
    let lost = control.with(|state| state.asked.refreshes.len());
    control.until(|state| state.asked.refreshes.len() > lost).await;
    let beats = control.with(|state| state.asked.beats.len());
    control.until(|state| state.asked.beats.len() > beats + 1).await;
    // Each attempt came with the one token that the host had for certain.
    assert!(control.with(|state| state.asked.refreshes.iter().all(|token| token == "refresh-1")));
    assert!(beating.body.welcome.load(Ordering::SeqCst));
    assert!(beating.body.paused.borrow().is_empty());
}

#[tokio::test]
async fn a_rejected_host_pauses_everything_and_takes_no_new_work_until_it_is_let_in_again() {
    let beating = beating(LONG).await;
    let control = &beating.host.control;
    control.with(|state| {
        state.access = "revoked".to_owned();
        state.refresh_tokens.clear();
    });
    assert_eq!(paused(&beating.body).await, [PauseCause::Rejected]);
    assert!(!beating.body.welcome.load(Ordering::SeqCst));
    let (_, cause) = ContactMemory::new(beating.host.dir.path(), "b".to_owned()).recall(u64::MAX);
    assert_eq!(cause, Some(PauseCause::Rejected));
    control.with(|state| state.access = "access-1".to_owned());
    let beats = control.with(|state| state.asked.beats.len());
    control.until(|state| state.asked.beats.len() > beats + 1).await;
    assert!(beating.body.welcome.load(Ordering::SeqCst));
}

#[tokio::test]
async fn lost_contact_pauses_everything_once() {
    for says in [Says::Status(500), Says::Status(404), Says::Status(410)] {
        let beating = beating(Duration::from_millis(60)).await;
        let control = &beating.host.control;
        control.with(|state| state.heartbeat = says.clone());
        assert_eq!(paused(&beating.body).await, [PauseCause::ContactLost]);
        let beats = control.with(|state| state.asked.beats.len());
        control.until(|state| state.asked.beats.len() > beats + 2).await;
        assert_eq!(beating.body.paused.borrow().len(), 1, "{says:?}");
        // It is still this host, with its credentials, and works on when control is back.
        assert!(beating.host.store.load().is_some());
        assert!(!beating.task.is_finished());
    }
}

#[tokio::test]
async fn while_all_is_paused_for_lost_contact_nothing_new_begins_and_what_resists_is_paused_again_until_control_is_back()
 {
    let beating = beating(Duration::from_millis(60)).await;
    let (control, body) = (&beating.host.control, &beating.body);
    body.resists.store(true, Ordering::SeqCst);
    control.with(|state| state.heartbeat = Says::Status(500));
    let mut sweeps = body.paused.subscribe();
    sweeps.wait_for(|causes| causes.len() >= 2).await.unwrap();
    assert!(body.out_of_contact.load(Ordering::SeqCst));
    assert!(body.welcome.load(Ordering::SeqCst));
    control.with(|state| state.heartbeat = Says::Truth);
    let beats = control.with(|state| state.asked.beats.len());
    control.until(|state| state.asked.beats.len() > beats + 2).await;
    assert!(!body.out_of_contact.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_agent_that_starts_again_while_contact_is_lost_pauses_what_the_one_before_did_not_get_to() {
    let host = enrolled().await;
    host.control.with(|state| state.heartbeat = Says::Status(500));
    ContactMemory::new(host.dir.path(), "b".to_owned()).remember(0, Some(PauseCause::ContactLost));
    let beating = beating_as(host, LONG).await;
    assert_eq!(paused(&beating.body).await, [PauseCause::ContactLost]);
    assert!(beating.body.out_of_contact.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_agent_that_was_away_for_long_asks_before_it_pauses() {
    let host = enrolled().await;
    let long_ago = ContactMemory::new(host.dir.path(), "b".to_owned());
    long_ago.remember(0, None);
    let beating = beating_as(host, Duration::from_secs(60)).await;
    beating.host.control.until(|state| state.asked.beats.len() >= 2).await;
    assert!(beating.body.paused.borrow().is_empty());
}

#[tokio::test]
async fn only_a_tombstone_that_the_ca_has_signed_for_this_host_ends_it() {
    let beating = beating(LONG).await;
    let Enrolled { control, .. } = &beating.host;
    let host = control.with(|state| state.host.clone());
    let forged = [Ca::new().tombstone(&host), control.with(|state| state.ca.tombstone(&atoll_model::HostId::new()))];
    for tombstone in forged {
        control.with(|state| state.heartbeat = Says::Gone(tombstone));
        let beats = control.with(|state| state.asked.beats.len());
        control.until(|state| state.asked.beats.len() > beats + 2).await;
        assert!(!beating.task.is_finished());
    }
    control.with(|state| state.heartbeat = Says::Gone(state.ca.tombstone(&host)));
    assert_eq!(beating.task.await.unwrap(), End::Deleted);
}

#[tokio::test]
async fn a_rejected_host_learns_from_the_refresh_that_it_was_deleted() {
    let beating = beating(LONG).await;
    let control = &beating.host.control;
    let host = control.with(|state| state.host.clone());
    control.with(|state| {
        state.access = "revoked".to_owned();
        state.refresh = Says::Gone(state.ca.tombstone(&host));
    });
    assert_eq!(beating.task.await.unwrap(), End::Deleted);
}
