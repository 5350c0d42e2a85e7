//! `/readyz` is 200 while a create would succeed, and else 503 with each part that is missing, by name.

use std::net::TcpListener;

use atoll_client::Error;
use atoll_model::HostStatus;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_tests::cluster::{Cluster, Reach};
use atoll_tests::until;

/// The parts that are missing, with what is said of each.
async fn missing(cluster: &Cluster) -> Vec<(String, String)> {
    let error = match cluster.client.ready().await {
        Ok(()) => return Vec::new(),
        Err(Error::Api(error)) => error,
        Err(error) => panic!("no answer in the shape of errors: {error}"),
    };
    assert_eq!((error.status, error.code.as_str()), (503, "not_ready"), "{error:?}");
    let parts = error.details["failing"].as_array().expect("a list of parts");
    let text = |part: &serde_json::Value, name: &str| part[name].as_str().expect("text").to_owned();
    let parts: Vec<_> = parts.iter().map(|part| (text(part, "part"), text(part, "message"))).collect();
    for (part, message) in &parts {
        assert!(error.message.contains(&format!("{part}: {message}")), "for people too: {}", error.message);
    }
    parts
}

/// A dead host is known within a second at most to those who place sandboxes.
const NO_HOST: [&str; 2] = ["no_hosts_available", "host_unavailable"];

/// Waits until these parts are missing and no others, each with these words; a create is refused then.
async fn waits_for(cluster: &Cluster, expected: &[(&str, &str)], codes: &[&str]) {
    until(&format!("{expected:?} to be missing"), || async {
        let missing = missing(cluster).await;
        let same =
            |((part, said), (name, words)): (&(String, String), &(&str, &str))| part == name && said.contains(words);
        (missing.len() == expected.len() && missing.iter().zip(expected).all(same)).then_some(())
    })
    .await;
    match cluster.client.create_sandbox(&CreateSandboxRequest::default()).await {
        Err(Error::Api(error)) => assert!(codes.contains(&error.code.as_str()), "{error:?}"),
        other => panic!("without {expected:?}: {other:?}"),
    }
}

async fn gets_ready(cluster: &Cluster) {
    cluster.wait_ready().await;
    let made = cluster.client.create_sandbox(&CreateSandboxRequest::default()).await;
    let made = made.expect("it is ready, so a create succeeds");
    cluster.client.destroy_sandbox(&made.id).await.expect("destroying");
}

#[tokio::test]
async fn it_is_ready_only_while_a_create_would_succeed_and_says_what_is_missing() {
    // An archive that takes connections and never answers: the base template is being made for as long as one waits.
    let archive = TcpListener::bind("0.0.0.0:0").expect("a port");
    let mirror = format!("http://{{gateway}}:{}/debian", archive.local_addr().expect("an address").port());
    let empty = tempfile::tempdir_in("/var/tmp").expect("a cache");
    let empty_cache = empty.path().to_str().expect("a path");
    let making = [
        ("ATOLL_CACHE_DIR", empty_cache),
        ("ATOLL_DEBIAN_MIRROR", mirror.as_str()),
        ("ATOLL_DEBIAN_SECURITY_MIRROR", mirror.as_str()),
    ];
    let mut cluster = Cluster::start_with(1, 0, &making).await;
    let no_base = ("base_template", "`base` is not there yet");
    waits_for(&cluster, &[no_base, ("hosts", "there is no host yet")], &["not_ready"]).await;
    cluster.controls[0].says("downloading and unpacking").await;
    let host = cluster.add_host(Reach::Address).await;
    cluster.wait_host(host, HostStatus::Online).await;
    waits_for(&cluster, &[no_base], &["not_ready"]).await;
    // With the cache of everybody's.
    cluster.controls[0].terminate().await;
    let cache = std::env::var("ATOLL_CACHE_DIR").unwrap_or_else(|_| "/var/cache/atoll".to_owned());
    cluster.controls[0].run(&[("ATOLL_CACHE_DIR", &cache)]);
    gets_ready(&cluster).await;

    let id = cluster.hosts[host].id.clone();
    cluster.admin.drain_host(&id, true).await.expect("draining");
    waits_for(&cluster, &[("hosts", "of 1 considered: 1 draining (1 online)")], &NO_HOST[..1]).await;
    cluster.admin.drain_host(&id, false).await.expect("undraining");
    gets_ready(&cluster).await;

    cluster.hosts[host].node.kill_9();
    waits_for(&cluster, &[("hosts", "1 not_online (0 online)")], &NO_HOST).await;
    cluster.hosts[host].node.run(&[]);
    gets_ready(&cluster).await;
    // One that ends in order says so itself.
    cluster.hosts[host].node.terminate().await;
    cluster.wait_host(host, HostStatus::Offline).await;
    waits_for(&cluster, &[("hosts", "1 not_online (0 online)")], &NO_HOST).await;
    cluster.hosts[host].node.run(&[]);
    gets_ready(&cluster).await;

    cluster.postgres.kill_9().await;
    waits_for(&cluster, &[("database", "the database does not answer")], &["overloaded"]).await;
    cluster.postgres.run();
    gets_ready(&cluster).await;
}
