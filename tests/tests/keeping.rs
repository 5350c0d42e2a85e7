//! What outlives sandboxes or goes along with them: secrets, volumes, the history of metrics.

use atoll_client::command;
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{
    AddedHeader, CreateSandboxRequest, Metrics, NetworkPolicy, SetNetworkRequest, VolumeMount,
};
use atoll_model::api::volumes::Volume;
use atoll_tests::{Atoll, until};

const VALUE: &str = "correct-horse-battery-staple";

fn tiny() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(64), disk_mb: Some(64), ..CreateSandboxRequest::default() }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { volume: volume.to_owned(), path: path.to_owned(), read_only }
}

#[tokio::test]
async fn a_volume_outlives_its_sandboxes_is_shared_and_bounded() {
    let mut atoll = Atoll::start().await;
    atoll_tests::command::text(atoll.cli(&["volume", "create", "data", "--size", "32"]));
    let with = |read_only| CreateSandboxRequest { volumes: vec![mount("data", "/data", read_only)], ..tiny() };
    let writer = atoll.sandbox_with(with(false)).await.id;
    let reader = atoll.sandbox_with(with(true)).await.id;
    let write = "set -e; mkdir /data/d; echo one > /data/d/file; ln -s d/file /data/link; chmod 640 /data/d/file";
    assert_eq!(atoll.sh(&writer, write).await.exit_code, 0);
    assert_eq!(atoll.sh(&reader, "cat /data/link; stat -c '%U %a' /data/d/file").await.stdout, "one\nuser 640\n");
    let refused = atoll.root(&reader, "echo x > /data/new; rm /data/link; mount -o remount,rw /data").await;
    assert!(refused.exit_code != 0 && refused.stderr.matches("Read-only file system").count() == 2, "{refused:?}");
    // Its quota is its own: neither sandbox's disk pays for it, and it ends where it says.
    let full = atoll.sh(&writer, "head -c 64M /dev/zero > /data/big").await;
    assert!(full.exit_code != 0 && full.stderr.contains("quota"), "{full:?}");
    assert_eq!(atoll.sh(&writer, "rm /data/big; echo fits > ~/file").await.exit_code, 0);
    // In use: refused. The last sandbox gone, and after a crash of everything: still there.
    let error = atoll.client().delete_volume("data").await.expect_err("it is in use");
    assert_eq!(error.status(), Some(409), "{error}");
    for id in [&writer, &reader] {
        atoll.client().destroy_sandbox(id).await.expect("destroy");
    }
    atoll.kill_9();
    atoll.start_again().await;
    let volume: Volume = atoll.client().get_volume("data").await.expect("get");
    assert!(volume.sandboxes.is_empty() && volume.host_id.is_some(), "{volume:?}");
    let seen = atoll_tests::command::text(atoll.cli(&["run", "--volume", "data:/mnt/x", "--", "cat", "/mnt/x/link"]));
    assert_eq!(seen, "one\n");
    let its = atoll.data_dir().join("pool/volumes").join(volume.id.as_str());
    assert!(its.is_dir());
    until("the volume to be free", || async { atoll.client().delete_volume("data").await.ok() }).await;
    until("its files to be gone", || async { (!its.exists()).then_some(()) }).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_secret_is_in_the_sandboxs_environment_and_in_no_file_of_the_server() {
    let atoll = Atoll::start().await;
    let set =
        atoll_tests::command::with_input(atoll.cli(&["secret", "set", "pass.phrase"]), format!("{VALUE}\n").as_bytes());
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let secrets = [("PASS".to_owned(), "pass.phrase".to_owned())].into_iter().collect();
    let id = atoll.sandbox_with(CreateSandboxRequest { secrets, ..tiny() }).await.id;
    // Programs, and programs of programs.
    assert_eq!(atoll.sh(&id, "bash -c 'echo $PASS'").await.stdout, format!("{VALUE}\n"));
    let forked = atoll.client().fork_sandbox(&id, &Default::default()).await.expect("fork");
    let child = forked.items[0].sandbox.as_ref().expect("a child").id.clone();
    assert_eq!(atoll.sh(&child, "echo $PASS").await.stdout, format!("{VALUE}\n"));
    let listed = atoll_tests::command::text(atoll.cli(&["secret", "list", "--json"]));
    assert!(listed.contains("pass.phrase") && !listed.contains(VALUE), "{listed}");
    // The host keeps it for the sandbox's next start, in a file of its own; nothing else does.
    let own = [&id, &child].map(|id| atoll.data_dir().join("sandboxes").join(id.as_str()).join("secrets.json"));
    let holding = files_with(&atoll.data_dir(), VALUE.as_bytes());
    assert!(holding.iter().all(|path| own.contains(path)), "{holding:?}");
    assert!(!atoll.log().contains(VALUE));
    let run = ["run", "--secret", "PASS=pass.phrase", "--", "sh", "-c", "echo $PASS"];
    assert_eq!(atoll_tests::command::text(atoll.cli(&run)), format!("{VALUE}\n"));
    atoll.client().delete_secret("pass.phrase").await.expect("delete");
    assert!(!atoll.cli(&run).output().expect("run").status.success());
    atoll.stop_and_check().await;
}

/// What a program inside that trusts what the image trusts gets from a name that nobody has.
const ASK: &str = r#"python3 -c '
import urllib.request, urllib.error
try:
    urllib.request.urlopen("https://api.atoll.test/x", timeout=60)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode().strip())
except urllib.error.URLError as error:
    print(error.reason)
'"#;

#[tokio::test]
async fn a_secret_in_a_header_is_the_hosts_to_add_and_never_comes_into_the_sandbox() {
    let atoll = Atoll::start().await;
    let set =
        atoll_tests::command::with_input(atoll.cli(&["secret", "set", "pass.phrase"]), format!("{VALUE}\n").as_bytes());
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let header = AddedHeader {
        domain: "api.atoll.test".to_owned(),
        name: "Authorization".to_owned(),
        value: "Bearer ${secrets.pass.phrase}".to_owned(),
    };
    let network = NetworkPolicy { headers: vec![header.clone()], ..NetworkPolicy::default() };
    let id = atoll.sandbox_with(CreateSandboxRequest { network: Some(network.clone()), ..tiny() }).await.id;
    let forked = atoll.client().fork_sandbox(&id, &Default::default()).await.expect("fork");
    let child = forked.items[0].sandbox.as_ref().expect("a child").id.clone();
    let plain = atoll.sandbox_with(tiny()).await.id;
    let told = "502 atoll: api.atoll.test could not be asked: its name has no IPv4 address\n";
    for id in [&id, &child] {
        // The certificate is good for programs inside, and the request comes to the proxy.
        assert_eq!(atoll.sh(id, ASK).await.stdout, told);
        let look =
            format!("env; cat /proc/[0-9]*/environ; grep -rs {VALUE} /etc /home /root /run /tmp /usr/local; true");
        let seen = atoll.root(id, &look).await;
        assert!(!seen.stdout.contains(VALUE) && seen.stdout.contains("REQUESTS_CA_BUNDLE=/etc/ssl/"), "{seen:?}");
    }
    let shown = atoll.client().get_sandbox(&id).await.expect("get");
    assert_eq!(shown.network, network, "as it was given");
    assert!(!atoll.sh(&plain, ASK).await.stdout.starts_with("502"));

    // It comes and goes while the sandbox lives.
    let with = SetNetworkRequest { headers: vec![header], ..SetNetworkRequest::default() };
    atoll.client().set_network(&plain, &with).await.expect("set");
    assert_eq!(atoll.sh(&plain, ASK).await.stdout, told);
    atoll.client().set_network(&id, &SetNetworkRequest::default()).await.expect("clear");
    assert!(!atoll.sh(&id, ASK).await.stdout.starts_with("502"));

    // On the host it is in the records of those that have it, and nowhere else.
    let own = [&child, &plain].map(|id| atoll.data_dir().join("sandboxes").join(id.as_str()).join("record.json"));
    let holding = files_with(&atoll.data_dir(), VALUE.as_bytes());
    assert!(holding.iter().all(|path| own.contains(path)) && holding.len() == 2, "{holding:?}");
    assert!(!atoll.log().contains(VALUE));

    // A token of an identity is had from control before anything is asked; without one nothing is.
    let identity = AddedHeader { value: "Bearer ${identity.vault}".to_owned(), ..with.headers[0].clone() };
    let network = NetworkPolicy { headers: vec![identity], ..NetworkPolicy::default() };
    let identities = [("vault".to_owned(), "https://vault.test".to_owned())].into();
    let wanted = CreateSandboxRequest { network: Some(network), identities, ..tiny() };
    let bearer = atoll.sandbox_with(wanted).await.id;
    assert_eq!(atoll.sh(&bearer, ASK).await.stdout, told);
    let gone = AddedHeader { value: "${secrets.none}".to_owned(), ..with.headers[0].clone() };
    let request = SetNetworkRequest { headers: vec![gone], ..SetNetworkRequest::default() };
    assert_eq!(atoll.client().set_network(&plain, &request).await.expect_err("no such secret").status(), Some(404));
    atoll.stop_and_check().await;
}

/// Files of the data directory (but for what is inside sandboxes) that hold these bytes.
fn files_with(directory: &std::path::Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the data directory").flatten() {
        let kind = entry.file_type().expect("a file's type");
        if kind.is_dir() && entry.file_name() != "pool" {
            found.extend(files_with(&entry.path(), bytes));
        } else if kind.is_file() && !entry.path().extension().is_some_and(|end| end == "btrfs" || end == "img") {
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if content.windows(bytes.len()).any(|window| window == bytes) {
                found.push(entry.path());
            }
        }
    }
    found
}

async fn metrics(atoll: &Atoll, id: &SandboxId) -> Metrics {
    atoll.client().sandbox_metrics(id, Some("5m")).await.expect("metrics")
}

#[tokio::test]
async fn metrics_are_sampled_while_it_runs_and_readable_when_it_is_paused_and_after_a_kill_9() {
    let mut atoll = Atoll::start().await;
    let id = atoll.sandbox_with(tiny()).await.id;
    let busy = command("/bin/bash", ["-c", "head -c 8M /dev/urandom > ~/file; while :; do :; done"]);
    atoll.client().exec_background(&id, &busy).await.expect("background");
    let seen = until("three points of a busy sandbox", || async {
        let seen = metrics(&atoll, &id).await;
        let busy = seen.points.iter().filter(|point| point.cpu_pct > 5.0).count();
        (busy >= 3 && seen.points.last()?.disk_bytes >= 8_000_000).then_some(seen)
    })
    .await;
    assert_eq!(seen.step_sec, Some(5));
    assert!(seen.points.iter().all(|point| point.cpu_pct <= 250.0 && point.mem_bytes > 0 && point.processes > 0));
    assert!(seen.points.windows(2).all(|pair| pair[0].timestamp_unix <= pair[1].timestamp_unix));
    atoll.client().pause_sandbox(&id).await.expect("pause");
    let file = atoll.data_dir().join("metrics").join(id.as_str());
    let paused_at = std::time::SystemTime::now();
    let written = || file.metadata().and_then(|metadata| metadata.modified()).ok();
    until("its history to be on disk", || async { written().filter(|at| *at >= paused_at) }).await;
    let paused = metrics(&atoll, &id).await;
    assert!(paused.points.len() >= 2, "{paused:?}");
    atoll.kill_9();
    atoll.start_again().await;
    let after =
        until("its host to answer", || async { atoll.client().sandbox_metrics(&id, Some("5m")).await.ok() }).await;
    let times = |metrics: &Metrics| metrics.points.iter().map(|point| point.timestamp_unix).collect::<Vec<_>>();
    assert_eq!(times(&after), times(&paused));
    atoll.client().destroy_sandbox(&id).await.expect("destroy");
    atoll.stop_and_check().await;
}
