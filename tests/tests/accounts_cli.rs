//! `atoll team`, `key`, `admin`, `audit` and `login` of the real binary, by several people.

use std::process::Command;

use atoll_client::Credentials;
use atoll_tests::{Atoll, command};
use serde_json::Value;

const PASSWORD: &str = "correct horse battery staple";

/// A person with a home directory of their own.
struct Person<'a> {
    atoll: &'a Atoll,
    email: String,
}

impl Person<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.atoll.cli(args);
        let home = self.atoll.scratch().join(&self.email);
        std::fs::create_dir_all(&home).expect("a home");
        command.env_remove("ATOLL_DATA_DIR").env("HOME", &home).env("XDG_CONFIG_HOME", home.join("config"));
        command.env("ATOLL_EMAIL", &self.email).env("ATOLL_PASSWORD", PASSWORD);
        command.env("ATOLL_URL", self.atoll.credentials().url);
        command
    }

    fn does(&self, args: &[&str]) -> String {
        command::text(self.command(args)).trim().to_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.does(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// What it says when it fails.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("atoll");
        assert!(!output.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// What the admin of this machine does.
fn admin(atoll: &Atoll, args: &[&str]) -> String {
    command::text(atoll.cli(args)).trim().to_owned()
}

fn admin_json(atoll: &Atoll, args: &[&str]) -> Value {
    serde_json::from_str(&admin(atoll, &[args, &["--json"]].concat())).expect("JSON")
}

/// An account that an admin makes; its person sets the password by the link.
async fn person<'a>(atoll: &'a Atoll, email: &str) -> (Person<'a>, String) {
    let made = admin_json(atoll, &["admin", "add-user", email, "Somebody"]);
    let url = made["url"].as_str().expect("a link");
    let token = url.split_once("/reset#").expect("a token in the link").1;
    atoll.client().confirm_reset(token, &PASSWORD.to_owned().into()).await.expect("a password");
    (Person { atoll, email: email.to_owned() }, made["user_id"].as_str().expect("an id").to_owned())
}

#[tokio::test]
async fn people_run_teams_and_keys_from_the_command_line() {
    let atoll = Atoll::start().await;
    let (ann, _) = person(&atoll, "ann@example.test").await;
    let (bob, bob_id) = person(&atoll, "bob@example.test").await;

    let team = ann.does(&["team", "create", "Research"]);
    assert!(team.starts_with("team-"), "{team}");
    ann.does(&["team", "rename", &team, "Field research"]);
    assert_eq!(ann.does(&["team", "add", &team, "bob@example.test"]), bob_id);
    assert!(ann.fails(&["team", "add", &team, "nobody@example.test"]).contains("only people who have an account"));
    let shown = ann.json(&["team", "get", &team]);
    assert_eq!(
        (&shown["team"]["name"], shown["members"].as_array().map(Vec::len)),
        (&"Field research".into(), Some(2))
    );
    assert!(
        ann.does(&["team", "list"]).contains("Field research") && bob.does(&["team", "ls"]).contains("Field research")
    );
    assert!(bob.fails(&["team", "rename", &team, "Bob's"]).contains("role admin"));
    ann.does(&["team", "role", &team, &bob_id, "admin"]);
    bob.does(&["team", "rename", &team, "Ours"]);
    assert!(ann.fails(&["team", "leave", &team]).contains("owner"), "the last owner stays");
    ann.does(&["team", "remove", &team, &bob_id]);
    assert!(bob.fails(&["team", "get", &team]).contains("no such team"));
    ann.does(&["team", "rm", &team]);
    assert!(!ann.does(&["team", "list"]).contains(&team));
    assert!(ann.does(&["team", "usage"]).contains("sandboxes"));

    let made = ann.json(&["key", "create", "ci", "--scope", "read", "--expires", "1h"]);
    let key = made["key"].as_str().expect("shown once");
    assert!(key.starts_with("atl_") && made["scope"] == "read" && made["expires_at"].is_string(), "{made}");
    let list = ann.does(&["key", "list"]);
    assert!(list.contains(made["key_prefix"].as_str().unwrap()) && !list.contains(key), "{list}");
    let with_key = |args: &[&str]| {
        let mut command = ann.command(args);
        command.env("ATOLL_API_KEY", key).env_remove("ATOLL_EMAIL").env_remove("ATOLL_PASSWORD");
        command.output().expect("atoll")
    };
    assert!(with_key(&["ps"]).status.success());
    let refused = with_key(&["rm", "sb-aaaaaaaaaaaaaaaaaaaa"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("scope"), "{refused:?}");
    assert!(!with_key(&["key", "list"]).status.success(), "a key makes and shows no keys");
    ann.does(&["key", "rm", made["id"].as_str().unwrap()]);
    assert!(!with_key(&["ps"]).status.success(), "a deleted key");
    let old = ann.does(&["key", "create", "sdk", "--e2b"]);
    assert!(old.starts_with("e2b_"), "{old}");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_platform_admin_runs_the_installation_from_the_command_line() {
    let atoll = Atoll::start().await;
    let (ann, ann_id) = person(&atoll, "ann@example.test").await;
    let team = ann.json(&["team", "list"])["items"][0]["id"].as_str().expect("a team").to_owned();
    assert!(ann.fails(&["admin", "users"]).contains("platform admins"));
    assert!(admin(&atoll, &["admin", "users", "ann@"]).contains(&ann_id));
    assert!(admin(&atoll, &["admin", "teams"]).contains(&team));

    admin(&atoll, &["admin", "byoc", &team, "on"]);
    assert_eq!(ann.json(&["team", "list"])["items"][0]["is_byoc"], true);
    admin(&atoll, &["admin", "byoc", &team, "off"]);
    let quotas = admin_json(&atoll, &["admin", "quota", &team, "--sandboxes", "0"]);
    assert_eq!(quotas["sandboxes"]["limit"], 0);
    let key = ann.does(&["key", "create", "k"]);
    let mut create = ann.command(&["sandbox", "create"]);
    let refused = create.env("ATOLL_API_KEY", &key).output().expect("atoll");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("quota"), "{refused:?}");

    admin(&atoll, &["admin", "admin", &ann_id, "on"]);
    assert!(ann.does(&["admin", "users"]).contains("ann@example.test"));
    admin(&atoll, &["admin", "admin", &ann_id, "off"]);
    assert!(ann.fails(&["admin", "users"]).contains("platform admins"));
    admin(&atoll, &["admin", "active", &ann_id, "off"]);
    assert!(ann.fails(&["team", "list"]).contains("wrong email or password"));
    admin(&atoll, &["admin", "active", &ann_id, "on"]);

    let link = admin(&atoll, &["admin", "reset-link", &ann_id]);
    let token = link.split_once("/reset#").expect("a token in the link").1;
    let password = "another battery".to_owned();
    atoll.client().confirm_reset(token, &password.clone().into()).await.expect("a new password");
    let again = atoll.client().confirm_reset(token, &password.clone().into()).await;
    assert!(again.is_err(), "a link works once");
    assert!(ann.fails(&["team", "list"]).contains("wrong email or password"), "the old password");
    let mut command = ann.command(&["team", "list"]);
    assert!(command.env("ATOLL_PASSWORD", &password).output().expect("atoll").status.success());

    let trail = admin(&atoll, &["audit", "--all", "--action", "team.byoc"]);
    assert_eq!(trail.lines().filter(|line| line.contains(&team)).count(), 2, "{trail}");
    assert!(admin(&atoll, &["audit", "--all", &ann_id[5..]]).contains("user.active"));
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn login_with_a_password_or_a_key_remembers_a_key_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let atoll = Atoll::start().await;
    let (ann, _) = person(&atoll, "ann@example.test").await;
    let stored = atoll.scratch().join("ann@example.test/config/atoll/credentials.json");
    ann.does(&["login", "--email", "ann@example.test"]);
    let mode = std::fs::metadata(&stored).expect("stored").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = Credentials::read(&stored).expect("credentials");
    assert!(kept.api_key.is_some() && kept.token.is_none() && kept.admin.is_none());
    let alone = |args: &[&str]| {
        let mut command = ann.command(args);
        command.env_remove("ATOLL_URL").env_remove("ATOLL_EMAIL").env_remove("ATOLL_PASSWORD");
        command
    };
    command::text(alone(&["ps"]));
    command::text(alone(&["logout"]));
    assert!(!stored.exists());

    let key = ann.does(&["key", "create", "k"]);
    let mut login = ann.command(&["login", "--key-file", "-"]);
    login.env_remove("ATOLL_EMAIL").env_remove("ATOLL_PASSWORD");
    let output = command::with_input(login, format!("{key}\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
    command::text(alone(&["ps"]));
    let mut wrong = ann.command(&["login", "--key-file", "-"]);
    wrong.env_remove("ATOLL_EMAIL").env_remove("ATOLL_PASSWORD");
    let output = command::with_input(wrong, b"atl_00000000000000000000000000000000\n");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("credentials"), "{output:?}");
    command::text(alone(&["ps"]));
    atoll.stop_and_check().await;
}
