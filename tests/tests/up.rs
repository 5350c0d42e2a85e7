//! `atoll up` itself: its credentials, its lock, its log, and how it comes back.

use std::os::unix::fs::PermissionsExt;

use atoll_client::Auth;
use atoll_tests::command::text;
use atoll_tests::{Atoll, until};
use secrecy::ExposeSecret;
use serde_json::Value;

#[tokio::test]
async fn the_first_start_makes_an_admin_and_a_key_that_only_the_owner_can_read() {
    let atoll = Atoll::start().await;
    let path = atoll.data_dir().join("credentials.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(atoll.data_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    let content: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut names: Vec<_> = content.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["admin_email", "admin_password", "api_key", "url"]);
    let (email, password) = atoll.credentials().admin.unwrap();
    let me = atoll.client().signed_in(&email, &password).await.unwrap().me().await.unwrap();
    assert!(me.is_admin);
}

#[tokio::test]
async fn no_secret_is_in_any_log() {
    let atoll = Atoll::start_with(&["--log", "debug"], &[]).await;
    text(atoll.cli(&["run", "--env", "TOKEN=very-secret-value", "--", "true"]));
    let credentials = atoll.credentials();
    // Others see that it is ready a moment before it says so itself.
    let logs = until("the log of the start", || async {
        let file = std::fs::read_to_string(atoll.data_dir().join("logs/atoll.log")).unwrap();
        file.contains("atoll is ready").then(|| atoll.log() + &file)
    })
    .await;
    for secret in [credentials.admin.unwrap().1, credentials.api_key.unwrap(), "very-secret-value".into()] {
        assert!(!logs.contains(secret.expose_secret()), "a secret is in the log");
    }
    let host = std::fs::read_to_string(atoll.data_dir().join("credentials/host.json")).unwrap();
    let host: Value = serde_json::from_str(&host).unwrap();
    for name in ["access_token", "refresh_token"] {
        let secret = host["current"]["credentials"][name].as_str().unwrap();
        assert!(!logs.contains(secret), "the host's {name} is in the log");
    }
}

#[tokio::test]
async fn a_second_one_on_the_same_directory_is_told_who_holds_it() {
    let atoll = Atoll::start().await;
    let data_dir = atoll.data_dir();
    let second =
        atoll.cli(&["up", "--data-dir", data_dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr.contains(&format!("process {}", atoll.pid())), "{stderr}");
    assert_eq!(text(atoll.cli(&["run", "--", "echo", "unharmed"])), "unharmed\n");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it_and_leaves_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let output = std::process::Command::new(atoll_tests::atoll::binary())
        .args(["up", "--data-dir", data_dir, "--listen", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&address) && stderr.contains("--listen"), "{stderr}");
    assert_eq!(atoll_tests::leaks::Mark::of(folder.path()).left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_restart_keeps_admin_key_and_host() {
    let mut atoll = Atoll::start().await;
    let before = atoll.credentials();
    let host = std::fs::read(atoll.data_dir().join("credentials/host.json")).unwrap();
    atoll.terminate().await;
    atoll.start_again().await;
    let after = atoll.credentials();
    assert_eq!(before.api_key.unwrap().expose_secret(), after.api_key.unwrap().expose_secret());
    let (email, password) = after.admin.unwrap();
    let admin = atoll.client().signed_in(&email, &password).await.unwrap();
    assert_eq!(admin.list_hosts().await.unwrap().items.len(), 1);
    assert_eq!(host, std::fs::read(atoll.data_dir().join("credentials/host.json")).unwrap());
    assert_eq!(text(atoll.cli(&["run", "--", "echo", "42"])), "42\n");
}

#[tokio::test]
async fn a_host_whose_credentials_count_no_longer_enrols_again_and_keeps_its_sandboxes() {
    let mut atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    atoll.terminate().await;
    let path = atoll.data_dir().join("credentials/host.json");
    let mut host: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    host["current"]["credentials"]["access_token"] = "revoked".into();
    host["current"]["credentials"]["refresh_token"] = "revoked".into();
    std::fs::write(&path, host.to_string()).unwrap();
    atoll.start_again().await;
    until("the sandbox to run again", || async {
        let sandbox = atoll.client().get_sandbox(&id).await.unwrap();
        (sandbox.status == atoll_model::SandboxStatus::Running).then_some(())
    })
    .await;
    assert_eq!(atoll.sh(&id, "echo here").await.stdout, "here\n");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn without_a_key_nothing_is_told() {
    let atoll = Atoll::start().await;
    let nobody = atoll.client().with_auth(Auth::Nobody);
    let error = nobody.list_sandboxes(&atoll_client::ListSandboxes::default()).await.unwrap_err();
    assert_eq!(error.status(), Some(401));
    let mut command = atoll.cli(&["--json", "ps"]);
    command.env("ATOLL_URL", &atoll.credentials().url).env("ATOLL_API_KEY", "atl_wrong");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unauthorized");
    assert!(error["error"]["hint"].as_str().unwrap().contains("ATOLL_API_KEY"));
}
