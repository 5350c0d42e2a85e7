//! `atoll login` with a browser, `atoll logout`, and new signing keys under a running server.

use std::process::Command;

use atoll_client::{Client, Credentials};
use atoll_tests::{Atoll, command};
use serde_json::Value;

/// The command line of somebody who has nothing but a home directory.
fn stranger(atoll: &Atoll, args: &[&str]) -> Command {
    let mut command = atoll.cli(args);
    let home = atoll.scratch();
    command.env_remove("ATOLL_DATA_DIR").env("HOME", &home).env("XDG_CONFIG_HOME", home.join("config"));
    command
}

async fn admin(atoll: &Atoll) -> Client {
    let (email, password) = atoll.credentials().admin.expect("an admin");
    atoll.client().signed_in(&email, &password).await.expect("signing in")
}

#[tokio::test]
async fn a_terminal_is_let_in_by_a_person_in_a_browser_and_signs_out_again() {
    let atoll = Atoll::start().await;
    let url = atoll.credentials().url;
    let mut login = command::piped(stranger(&atoll, &["login", "--json", "--url", &url]));
    let printed = serde_json::Deserializer::from_reader(login.stdout.take().expect("stdout"));
    let mut printed = printed.into_iter::<Value>();
    let mut json = || printed.next().expect("more output").expect("JSON");
    let shown = json();
    assert_eq!(shown["verification_uri"], format!("{url}/device"));
    let code = shown["user_code"].as_str().expect("a code").to_owned();
    admin(&atoll).await.decide_device_login(&code, true).await.expect("letting it in");
    assert_eq!(json()["email"], "admin@atoll.local");
    assert!(login.wait().expect("login").success());

    let stored = atoll.scratch().join("config/atoll/credentials.json");
    let token = Credentials::read(&stored).expect("stored credentials");
    assert!(token.token.is_some() && token.api_key.is_none());
    assert_eq!(command::text(stranger(&atoll, &["ps", "-q"])).trim(), "");
    let keys: Value = serde_json::from_str(&command::text(stranger(&atoll, &["key", "list", "--json"]))).unwrap();
    assert!(keys.to_string().contains("First key"), "a person may do what a key may not: {keys}");

    // What was signed before a rotation stays good.
    let dir = atoll.data_dir();
    let rotated =
        command::text(atoll.cli(&["server", "keys", "rotate", "--json", "--data-dir", dir.to_str().unwrap()]));
    assert!(rotated.contains("user_jwt-") && rotated.contains("host_jwt-"), "{rotated}");
    command::text(stranger(&atoll, &["ps"]));

    command::text(stranger(&atoll, &["logout"]));
    assert!(!stored.exists());
    let error = Client::new(&token).unwrap().me().await.expect_err("the session has ended");
    assert_eq!(error.status(), Some(401));
    let again = stranger(&atoll, &["logout", "--json"]);
    assert!(command::text(again).contains("false"));
}
