//! Connections: made when needed, shared, replaced, kept apart.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_model::SandboxId;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::host::{TestHost, get, rig, rig_with, text};
use crate::fleet::{Fleet, FleetError, FleetSettings, HostDirectory, TcpDialer, Way};
use crate::hosts::{Loopback, objection};
use crate::pki::agent_client_config;

#[tokio::test]
async fn nothing_is_dialled_before_it_is_needed_and_calls_share_one_connection() {
    let rig = rig().await;
    let client = rig.fleet.host_client(&rig.host);
    assert_eq!(rig.server.accepted.load(Ordering::SeqCst), 0);
    let calls = (0..50).map(|_| client.get_status(Default::default()));
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(rig.server.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn bulk_connections_are_used_again_when_their_answer_was_read() {
    let rig = rig().await;
    let sandbox = SandboxId::new();
    // A connection is ready for the next request a moment after its answer was read: soon one is found so.
    let mut requests = 0;
    while rig.server.accepted.load(Ordering::SeqCst) == requests {
        text(rig.fleet.guest_http(&rig.host, &sandbox, get("/x")).await.unwrap()).await;
        requests += 1;
        assert!(requests < 1000, "no connection was ever used twice");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reader_that_stops_reading_holds_up_nobody_else() {
    let rig = rig().await;
    let sandbox = SandboxId::new();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let endless =
            futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![0; 65536]))));
        let request = Request::builder().method("POST").uri("/echo").body(StreamBody::new(endless)).unwrap();
        stalled.push(rig.fleet.guest_http(&rig.host, &sandbox, request).await.unwrap());
    }
    rig.fleet.host_client(&rig.host).get_status(Default::default()).await.unwrap();
    text(rig.fleet.guest_http(&rig.host, &sandbox, get("/x")).await.unwrap()).await;
    drop(stalled);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let rig = rig().await;
    let chunks = futures::stream::iter(
        (0..256u32).map(|i| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![(i % 251) as u8; 64 * 1024])))),
    );
    let request = Request::builder().method("POST").uri("/echo").body(StreamBody::new(chunks)).unwrap();
    let answer = rig.fleet.guest_http(&rig.host, &SandboxId::new(), request).await.unwrap();
    let mut length = 0;
    let mut body = answer.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        length += chunk.unwrap().len();
    }
    assert_eq!(length, 256 * 64 * 1024);
}

#[tokio::test]
async fn a_port_of_a_sandbox_is_reached_without_being_trusted_and_upgrades_pass_through() {
    let rig = rig().await;
    let sandbox = SandboxId::new();
    let mut request = get("/index.html?a=1");
    request.headers_mut().insert("x-atoll-trusted", "1".parse().unwrap());
    let answer = rig.fleet.port_http(&rig.host, &sandbox, (8080, Way::Plain), request).await.unwrap();
    assert_eq!(text(answer).await, format!("HTTP/1.1 /proxy/{sandbox}/8080/index.html trusted=false"));

    let answer = rig.fleet.port_http(&rig.host, &sandbox, (8443, Way::Tls), get("/")).await.unwrap();
    assert_eq!(text(answer).await, format!("HTTP/1.1 /proxy/{sandbox}/8443+tls/ trusted=false"));

    let mut request = get("/ws");
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let answer = rig.fleet.port_http(&rig.host, &sandbox, (8080, Way::Plain), request).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}

#[tokio::test]
async fn a_host_that_has_moved_is_called_at_its_new_address_and_one_that_restarted_is_called_again() {
    let mut rig = rig().await;
    let client = rig.fleet.host_client(&rig.host);
    client.get_status(Default::default()).await.unwrap();
    let moved = TestHost::start(&rig.authority, &rig.identity).await;
    rig.directory.set(moved.address, &rig.identity.host_key);
    client.get_status(Default::default()).await.unwrap();
    assert_eq!(moved.accepted.load(Ordering::SeqCst), 1);

    rig.server = TestHost::start(&rig.authority, &rig.identity).await;
    drop(moved);
    rig.directory.set(rig.server.address, &rig.identity.host_key);
    client.get_status(Default::default()).await.unwrap();
    text(rig.fleet.guest_http(&rig.host, &SandboxId::new(), get("/x")).await.unwrap()).await;
}

#[tokio::test]
async fn a_host_that_accepts_and_never_answers_is_given_up_within_the_deadline() {
    let settings = FleetSettings { dial_timeout: Duration::from_millis(100), ..FleetSettings::default() };
    let rig = rig_with(settings).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.directory.set(silent.local_addr().unwrap(), &rig.identity.host_key);
    let client = rig.fleet.host_client(&rig.host);
    // All who wait share the outcome of one dial.
    let calls = (0..100).map(|_| client.get_status(Default::default()));
    for result in futures::future::join_all(calls).await {
        let error = FleetError::from_rpc(&rig.host, "ask for its status", result.err().unwrap());
        assert!(matches!(error, FleetError::Unavailable { .. }), "{error}");
    }
}

#[tokio::test]
async fn errors_tell_an_absent_host_from_a_slow_and_an_unwilling_one() {
    let settings = FleetSettings { call_timeout: Duration::from_millis(100), ..FleetSettings::default() };
    let rig = rig_with(settings).await;
    let client = rig.fleet.host_client(&rig.host);
    let refused = client.list_sandboxes(Default::default()).await.err().unwrap();
    let error = FleetError::from_rpc(&rig.host, "list", refused);
    assert!(matches!(error, FleetError::Agent { .. }), "{error}");
    // It may have done what it was asked.
    let broken = client.pause_sandbox(Default::default()).await.err().unwrap();
    let error = FleetError::from_rpc(&rig.host, "pause", broken);
    assert!(matches!(error, FleetError::Unavailable { .. }) && !error.never_arrived(), "{error}");

    *rig.directory.0.lock().unwrap() = None;
    let absent = client.get_status(Default::default()).await.err().unwrap();
    let error = FleetError::from_rpc(&rig.host, "ask", absent);
    assert!(matches!(error, FleetError::Unknown { .. }), "{error}");
    assert_eq!(rig.fleet.pooled(), 0, "what is deleted is evicted");
}

#[tokio::test]
async fn connections_to_hosts_that_are_gone_are_dropped_though_nobody_asks_for_them() {
    let rig = rig().await;
    rig.fleet.host_client(&rig.host).get_status(Default::default()).await.unwrap();
    rig.fleet.evict_gone().await.unwrap();
    assert_eq!(rig.fleet.pooled(), 1);
    // Another replica has deleted it.
    *rig.directory.0.lock().unwrap() = None;
    rig.fleet.evict_gone().await.unwrap();
    assert_eq!(rig.fleet.pooled(), 0);
}

#[tokio::test]
async fn a_name_that_leads_where_no_host_may_be_is_not_dialled() {
    let mut rig = rig().await;
    let address = format!("localhost:{}", rig.server.address.port());
    rig.directory.0.lock().unwrap().as_mut().unwrap().address = address;
    for loopback in [Loopback::Refused, Loopback::Allowed] {
        let dialer = TcpDialer::new(&agent_client_config(&rig.authority).unwrap())
            .with_objection(Arc::new(move |ip| objection(ip, loopback)));
        let directory = Arc::clone(&rig.directory) as Arc<dyn HostDirectory>;
        rig.fleet = Fleet::new(directory, Arc::new(dialer), FleetSettings::default());
        let answer = rig.fleet.host_client(&rig.host).get_status(Default::default()).await;
        match loopback {
            Loopback::Refused => {
                let Err(error) = answer else { panic!("it was dialled") };
                let error = FleetError::from_rpc(&rig.host, "ask", error);
                assert!(error.to_string().contains("must not be a loopback address"), "{error}");
                assert_eq!(rig.server.accepted.load(Ordering::SeqCst), 0, "not even a connection");
            }
            Loopback::Allowed => drop(answer.expect("it may be there")),
        }
    }
}
