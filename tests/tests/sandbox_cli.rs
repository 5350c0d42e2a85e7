//! `atoll shell` at a terminal as a person has it, and what `atoll sandbox get` and `logs` show people and programs.

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_tests::command::text;
use atoll_tests::{Atoll, Terminal, assert_memory, until};
use serde_json::Value;

/// Ids of what lives, as the command line shows them.
fn living(atoll: &Atoll) -> Vec<String> {
    text(atoll.cli(&["ps", "-q"])).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_shell_in_a_sandbox_leaves_it_as_it_was_and_gives_the_terminal_back() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    atoll.sh(&id, "echo kept > file").await;
    let shell = ["shell", id.as_str(), "-w", "/tmp", "-e", "COLOUR=blue"];
    let mut terminal = Terminal::start(atoll.cli(&shell), 101, 33);
    terminal.wait_for("$ ");
    terminal.type_in("stty size; pwd; id -un; echo $COLOUR; cat ~/file; uname -n\r");
    terminal.wait_for(&format!("33 101\r\n/tmp\r\nuser\r\nblue\r\nkept\r\n{}\r\n", id.dns_label()));
    // What Ctrl-C ends is the program in it, and Ctrl-D the shell.
    terminal.type_in("sleep 1000\r");
    until("the program to run", || async {
        atoll.sh(&id, "pgrep -x sleep").await.stdout.lines().next().is_some().then_some(())
    })
    .await;
    terminal.type_in("\x03");
    terminal.wait_for("^C");
    terminal.wait_for("$ ");
    terminal.type_in("(exit 4)\r");
    terminal.wait_for("$ ");
    terminal.type_in("\x04");
    assert_eq!(terminal.wait().code(), Some(4), "the shell's exit code is the command's");
    assert!(terminal.mode().local_modes.contains(rustix::termios::LocalModes::ECHO));
    assert_eq!(living(&atoll), [id.as_str()]);
    assert_eq!(atoll.sh(&id, "cat file; pgrep -x sleep").await.stdout, "kept\n");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_shell_without_a_sandbox_has_a_fresh_one_that_goes_with_it_or_is_kept() {
    let atoll = Atoll::start().await;
    for keep in [false, true] {
        let options = ["shell", "-u", "root", "--memory", "300", "--keep"];
        let options = &options[..options.len() - usize::from(!keep)];
        let mut terminal = Terminal::start(atoll.cli(options), 80, 24);
        terminal.wait_for("# ");
        let [id] = &living(&atoll)[..] else { panic!("one sandbox, for the shell alone") };
        let id: SandboxId = id.parse().expect("an id");
        terminal.type_in("id -un; head -n 1 /proc/meminfo; touch /tmp/mark\r");
        terminal.wait_for("root\r\n");
        assert_memory(&terminal.line(), 300);
        terminal.type_in("exit\r");
        assert_eq!(terminal.wait().code(), Some(0));
        if keep {
            terminal.wait_for(&format!("kept {id}"));
            assert_eq!(atoll.client().get_sandbox(&id).await.expect("get").timeout_sec, 0);
            assert_eq!(atoll.sh(&id, "ls /tmp").await.stdout, "mark\n");
        } else {
            assert_eq!(living(&atoll), [""; 0]);
        }
    }
    // Nobody types at a pipe.
    let output = atoll.cli(&["shell"]).output().expect("shell");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"), "{output:?}");
    assert_eq!(living(&atoll).len(), 1, "nothing was made for it");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn get_shows_a_sandbox_to_people_and_to_programs() {
    let atoll = Atoll::start().await;
    let request = CreateSandboxRequest {
        vcpus: Some(2),
        memory_mb: Some(300),
        timeout_sec: Some(600),
        metadata: [("task".to_owned(), "night \x1b[31mrun".to_owned())].into(),
        ..CreateSandboxRequest::default()
    };
    let made = atoll.sandbox_with(request).await;
    let shown = text(atoll.cli(&["sandbox", "get", made.id.as_str()]));
    let row = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(&format!("{name:<12} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {shown}"))
    };
    assert_eq!(row("id"), made.id.as_str());
    assert_eq!((row("status"), row("template"), row("driver")), ("running", "base", made.driver.as_str()));
    assert_eq!(row("host"), made.host_id.as_ref().expect("a host").as_str());
    assert_eq!(row("size"), format!("2 vcpus, 300 MB memory, {} MB disk", made.disk_mb));
    assert_eq!(row("timeout"), "600 s idle, then pause");
    assert!(row("labels").starts_with("task=night ") && !shown.contains('\x1b'), "{shown:?}");

    let json = |id: &SandboxId| {
        let text = text(atoll.cli(&["sandbox", "get", id.as_str(), "--json"]));
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let now = atoll.client().get_sandbox(&made.id).await.expect("get");
    assert_eq!(json(&made.id), serde_json::to_value(&now).expect("JSON"));
    atoll.client().pause_sandbox(&made.id).await.expect("pause");
    assert_eq!(json(&made.id)["status"], "paused");

    let stranger = SandboxId::new();
    let output = atoll.cli(&["sandbox", "get", stranger.as_str(), "--json"]).output().expect("get");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "not_found");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn logs_show_what_was_done_in_a_sandbox_and_go_on_when_asked_to() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    atoll.sh(&id, "exit 3").await;
    let logs = ["sandbox", "logs", id.as_str()];
    let first = text(atoll.cli(&logs));
    assert!(first.lines().any(|line| line.contains("/bin/bash")), "{first}");
    for line in first.lines() {
        let (date, rest) = line.split_once(' ').expect("a date");
        let (time, rest) = rest.split_once(' ').expect("a time");
        assert_eq!((date.len(), time.len()), ("2026-01-01".len(), "00:00:00.000".len()), "{line}");
        assert!(["info", "warn", "error"].contains(&rest.split_whitespace().next().expect("a level")), "{line}");
    }
    let as_json = text(atoll.cli(&["sandbox", "logs", id.as_str(), "--json"]));
    let messages: Vec<Value> = as_json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(messages.len(), first.lines().count(), "one line of JSON for each of text");
    assert!(first.lines().zip(&messages).all(|(line, json)| line.ends_with(json["message"].as_str().expect("text"))));

    // Followed, on a terminal: what is there first, then what comes.
    let mut terminal = Terminal::start(atoll.cli(&[&logs[..], &["--follow"]].concat()), 200, 50);
    terminal.wait_for("/bin/bash");
    let odd = atoll_client::command("/bin/sh", ["-c", "true", "odd-argument"]);
    atoll.client().exec(&id, &odd).await.expect("exec");
    terminal.wait_for("/bin/sh");
    terminal.type_in("\x03");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(terminal.wait().signal(), Some(libc::SIGINT));
    atoll.stop_and_check().await;
}
