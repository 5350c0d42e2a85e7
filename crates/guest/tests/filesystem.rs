//! The filesystem service: names, attributes and watches.

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Events, Guest, base64};
use serde_json::{Value, json};

async fn call(guest: &Guest, method: &str, request: Value) -> Value {
    guest.client.rpc(&format!("filesystem.Filesystem/{method}"), request).await.json()
}

async fn upload(guest: &Guest, path: &str, data: &str) {
    let url = format!("/files?path={path}");
    let answer =
        guest.client.send("POST", &url, &[("content-type", "application/octet-stream")], data.to_owned()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// `CREATE name` and the like.
fn shown(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap_or("?").trim_start_matches("EVENT_TYPE_").to_owned();
    format!("{kind} {}", event["name"].as_str().unwrap_or("?"))
}

async fn buffered(guest: &Guest, watcher: &Value) -> Vec<String> {
    let answer = call(guest, "GetWatcherEvents", json!({"watcherId": watcher})).await;
    answer["events"].as_array().map_or_else(Vec::new, |events| events.iter().map(shown).collect())
}

async fn watcher(guest: &Guest, path: &str, recursive: bool) -> Value {
    let answer = call(guest, "CreateWatcher", json!({"path": path, "recursive": recursive})).await;
    assert!(answer["watcherId"].is_string(), "{answer}");
    answer["watcherId"].clone()
}

async fn streamed(events: &mut Events) -> String {
    shown(&events.until(|message| message["filesystem"].is_object()).await["filesystem"])
}

#[tokio::test]
async fn directories_are_made_listed_moved_and_removed_for_the_user() {
    let guest = Guest::start().await;
    let root = guest.path("w");
    let daemon = format!("Basic {}", base64(b"daemon:"));
    let headers = [("authorization", daemon.as_str())];
    let made = guest
        .client
        .rpc_with("filesystem.Filesystem/MakeDir", json!({"path": format!("{root}/a/b")}), &headers)
        .await
        .json();
    let entry = &made["entry"];
    assert_eq!(
        (&entry["name"], &entry["type"], &entry["owner"]),
        (&json!("b"), &json!("FILE_TYPE_DIRECTORY"), &json!("daemon"))
    );
    assert_eq!((&entry["permissions"], &entry["mode"]), (&json!("drwxr-xr-x"), &json!(0o755)));
    assert_eq!(std::fs::metadata(&root).expect("made").uid(), 1, "every new directory is the user's");

    upload(&guest, &format!("{root}/a/file"), "12345").await;
    let entry = call(&guest, "Stat", json!({"path": format!("{root}/a/file")})).await["entry"].clone();
    assert_eq!((&entry["size"], &entry["permissions"]), (&json!("5"), &json!("-rw-r--r--")));
    assert!(entry["modifiedTime"].as_str().is_some_and(|time| time.ends_with('Z')));

    let listed = call(&guest, "ListDir", json!({"path": root, "depth": 2})).await;
    let names: Vec<_> = listed["entries"].as_array().expect("entries").iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["a", "b", "file"]);
    let moved =
        call(&guest, "Move", json!({"source": format!("{root}/a/file"), "destination": format!("{root}/n/f")})).await;
    assert_eq!(moved["entry"]["path"], format!("{root}/n/f"));
    for _ in 0..2 {
        assert_eq!(call(&guest, "Remove", json!({"path": root})).await, json!({}), "removing twice is fine");
    }
}

#[tokio::test]
async fn with_the_users_rights_nothing_of_anothers_is_listed_made_moved_or_removed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let guest = Guest::start().await;
    let root = guest.path("");
    let mode = |path: &str, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    };
    // Everybody may pass above.
    let mut above = std::path::Path::new(&root);
    while let Some(parent) =
        above.parent().filter(|parent| parent.starts_with("/tmp") && *parent != std::path::Path::new("/tmp"))
    {
        mode(parent.to_str().expect("text"), 0o755);
        above = parent;
    }
    mode(&root, 0o755);
    let closed = guest.path("closed");
    std::fs::create_dir(&closed).expect("made");
    std::fs::write(guest.path("closed/file"), "").expect("written");
    mode(&closed, 0o700);
    let daemon = format!("Basic {}", base64(b"daemon:"));
    let (named, own) = (("authorization", daemon.as_str()), ("x-atoll-rights", "user"));
    let calls = [
        ("ListDir", json!({"path": closed})),
        ("MakeDir", json!({"path": format!("{root}/made")})),
        ("Move", json!({"source": format!("{closed}/file"), "destination": format!("{root}/file")})),
        ("Remove", json!({"path": format!("{closed}/file")})),
    ];
    for (method, request) in &calls {
        let method = format!("filesystem.Filesystem/{method}");
        let answer = guest.client.rpc_with(&method, request.clone(), &[named, own]).await.json();
        assert_eq!(answer["code"], "permission_denied", "{method}: {answer}");
    }
    let listed = guest
        .client
        .rpc_with("filesystem.Filesystem/ListDir", json!({"path": root, "depth": 3}), &[named, own])
        .await
        .json();
    let entries = listed["entries"].as_array().unwrap_or_else(|| panic!("{listed}"));
    assert!(entries.iter().any(|entry| entry["name"] == "closed"), "{listed}");
    assert!(entries.iter().all(|entry| entry["name"] != "file"), "{listed}");
    // E2B's clients ask for nothing of the kind: the guest does it for the user.
    for (method, request) in &calls[..3] {
        let method = format!("filesystem.Filesystem/{method}");
        let answer = guest.client.rpc_with(&method, request.clone(), &[named]).await.json();
        assert_eq!(answer["code"], serde_json::Value::Null, "{method}: {answer}");
    }
}

#[tokio::test]
async fn failures_have_the_contracts_codes() {
    let guest = Guest::start().await;
    let root = guest.path("");
    let file = guest.path("file");
    std::fs::write(&file, "").expect("written");
    std::os::unix::fs::symlink("loop", guest.path("loop")).expect("made");
    for (method, request, code) in [
        ("Stat", json!({"path": "/no/such/file"}), "not_found"),
        ("Stat", json!({"path": "~other"}), "invalid_argument"),
        ("MakeDir", json!({"path": root}), "already_exists"),
        ("MakeDir", json!({"path": file}), "invalid_argument"),
        ("ListDir", json!({"path": "/no/such/dir"}), "not_found"),
        ("ListDir", json!({"path": file}), "invalid_argument"),
        ("ListDir", json!({"path": guest.path("loop")}), "failed_precondition"),
        ("Move", json!({"source": "/no/such/file", "destination": file}), "not_found"),
        ("Remove", json!({"path": "/"}), "invalid_argument"),
        ("CreateWatcher", json!({"path": "/no/such/dir"}), "not_found"),
        ("CreateWatcher", json!({"path": file}), "invalid_argument"),
        ("GetWatcherEvents", json!({"watcherId": "w99"}), "not_found"),
        ("RemoveWatcher", json!({"watcherId": "nonsense"}), "not_found"),
    ] {
        let answer = call(&guest, method, request.clone()).await;
        assert_eq!(answer["code"], code, "{method} {request}: {answer}");
    }
    let all =
        guest.client.stream("filesystem.Filesystem/WatchDir", json!({"path": "/no/such/dir"}), &[]).await.all().await;
    assert_eq!(all[0]["END"]["error"]["code"], "not_found");
}

#[tokio::test]
async fn an_upload_is_exactly_three_events() {
    let guest = Guest::start().await;
    let root = guest.path("");
    let id = watcher(&guest, &root, false).await;
    for length in [1, 200_000] {
        let name = format!("file{length}");
        upload(&guest, &format!("{root}{name}"), &"x".repeat(length)).await;
        assert_eq!(
            buffered(&guest, &id).await,
            [format!("CREATE {name}"), format!("CHMOD {name}"), format!("WRITE {name}")]
        );
    }
    assert_eq!(buffered(&guest, &id).await, [""; 0]);
}

#[tokio::test]
async fn changes_are_told_as_they_happen_in_order() {
    let guest = Guest::start().await;
    let root = guest.path("w");
    std::fs::create_dir(&root).expect("made");
    let request = json!({"path": root, "includeEntry": true});
    let mut events = guest.client.stream("filesystem.Filesystem/WatchDir", request, &[]).await;
    let first = events.next().await.expect("a first message");
    assert!(first["start"].is_object(), "{first}");
    std::fs::write(format!("{root}/a"), "12").expect("written");
    let create = events.until(|message| message["filesystem"].is_object()).await;
    assert_eq!(shown(&create["filesystem"]), "CREATE a");
    assert_eq!(create["filesystem"]["entry"]["path"], format!("{root}/a"));
    assert_eq!(streamed(&mut events).await, "WRITE a");
    std::fs::rename(format!("{root}/a"), format!("{root}/b")).expect("moved");
    assert_eq!(streamed(&mut events).await, "RENAME a");
    assert_eq!(streamed(&mut events).await, "CREATE b");
    std::fs::remove_file(format!("{root}/b")).expect("removed");
    assert_eq!(streamed(&mut events).await, "REMOVE b");
    std::fs::remove_dir(&root).expect("removed");
    assert_eq!(streamed(&mut events).await, "REMOVE .");
}

#[tokio::test]
async fn a_recursive_watch_follows_new_and_moved_directories() {
    let guest = Guest::start().await;
    let root = guest.path("w");
    std::fs::create_dir_all(format!("{root}/old")).expect("made");
    let id = watcher(&guest, &root, true).await;
    upload(&guest, &format!("{root}/new/deep/file"), "x").await;
    let events = buffered(&guest, &id).await;
    for wanted in ["CREATE new", "CREATE new/deep", "CREATE new/deep/file", "WRITE new/deep/file"] {
        assert_eq!(events.iter().filter(|event| *event == wanted).count(), 1, "{wanted} in {events:?}");
    }
    std::fs::write(format!("{root}/old/x"), "x").expect("written");
    assert_eq!(buffered(&guest, &id).await, ["CREATE old/x", "WRITE old/x"]);
    std::fs::rename(format!("{root}/old"), format!("{root}/moved")).expect("moved");
    assert_eq!(buffered(&guest, &id).await, ["RENAME old", "CREATE moved"]);
    std::fs::write(format!("{root}/moved/x"), "y").expect("written");
    let events = buffered(&guest, &id).await;
    assert!(!events.is_empty() && events.iter().all(|event| event == "WRITE moved/x"), "{events:?}");
    // What is made all at once, before it can be watched, is told as well, once.
    guest.sh(&format!("mkdir -p {root}/p/q/r; echo x > {root}/p/q/r/s")).await;
    let events = buffered(&guest, &id).await;
    for wanted in ["CREATE p", "CREATE p/q", "CREATE p/q/r", "CREATE p/q/r/s"] {
        assert_eq!(events.iter().filter(|event| *event == wanted).count(), 1, "{wanted} in {events:?}");
    }
    // Moved out of sight: nothing more is heard of it.
    std::fs::rename(format!("{root}/moved"), guest.path("outside")).expect("moved");
    std::fs::write(guest.path("outside/x"), "z").expect("written");
    assert_eq!(buffered(&guest, &id).await, ["RENAME moved"]);
}

#[tokio::test]
async fn a_watch_that_isnt_recursive_tells_of_its_own_directory_only() {
    let guest = Guest::start().await;
    let root = guest.path("w");
    std::fs::create_dir_all(format!("{root}/sub")).expect("made");
    let id = watcher(&guest, &root, false).await;
    std::fs::write(format!("{root}/sub/x"), "x").expect("written");
    std::fs::write(format!("{root}/y"), "").expect("written");
    assert_eq!(buffered(&guest, &id).await, ["CREATE y"]);
    assert_eq!(call(&guest, "RemoveWatcher", json!({"watcherId": id})).await, json!({}));
    assert_eq!(call(&guest, "GetWatcherEvents", json!({"watcherId": id})).await["code"], "not_found");
}

#[tokio::test]
async fn a_thousand_watches_work_side_by_side_and_leave_nothing_behind() {
    let guest = Guest::start().await;
    let mut ids = Vec::new();
    for number in 0..1000 {
        let path = guest.path(&format!("d{number}"));
        std::fs::create_dir(&path).expect("made");
        ids.push(watcher(&guest, &path, false).await);
    }
    for number in [0, 500, 999] {
        std::fs::write(guest.path(&format!("d{number}/f")), "").expect("written");
        assert_eq!(buffered(&guest, &ids[number]).await, ["CREATE f"]);
    }
    assert_eq!(buffered(&guest, &ids[1]).await, [""; 0]);
    let inotify = || {
        let folder = format!("/proc/{}/fd", guest.pid());
        let links =
            std::fs::read_dir(folder).expect("read").filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("inotify")).count()
    };
    assert_eq!(inotify(), 1, "all share one instance");
    for id in &ids {
        call(&guest, "RemoveWatcher", json!({"watcherId": id})).await;
    }
    common::eventually("the instance is closed when nobody watches", async || inotify() == 0).await;
}

#[tokio::test]
async fn events_that_nobody_takes_are_dropped_and_that_is_told_once() {
    let guest = Guest::start().await;
    let root = guest.path("w");
    std::fs::create_dir(&root).expect("made");
    let id = watcher(&guest, &root, false).await;
    for number in 0..9000 {
        std::fs::write(format!("{root}/f{number}"), "").expect("written");
        if number % 1000 == 0 {
            // Lets the guest read, so that the kernel's own queue isn't what overflows.
            guest.client.get("/health").await;
        }
    }
    let answer = call(&guest, "GetWatcherEvents", json!({"watcherId": id})).await;
    assert_eq!(answer["code"], "resource_exhausted", "{}", answer["message"]);
    std::fs::write(format!("{root}/after"), "").expect("written");
    assert_eq!(buffered(&guest, &id).await, ["CREATE after"]);
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_its_watch() {
    let guest = Guest::start().await;
    let root = guest.path("");
    let mut events = guest.client.stream("filesystem.Filesystem/WatchDir", json!({"path": root}), &[]).await;
    events.next().await.expect("a start");
    drop(events);
    let inotify = || {
        let folder = format!("/proc/{}/fd", guest.pid());
        let links =
            std::fs::read_dir(folder).expect("read").filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("inotify")).count()
    };
    common::eventually("nothing is watched any more", async || inotify() == 0).await;
}
