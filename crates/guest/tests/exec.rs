//! Running programs to their end: `GuestService.Exec`, and what every program finds around it.

mod common;

use atoll_rpc::atoll::guest::v1::{ExecRequest, ExecResponse};
use atoll_rpc::buffa::Message;
use common::{Guest, eventually, status_of, text};
use serde_json::{Value, json};

#[tokio::test]
async fn a_program_answers_with_its_output_and_exit_code_in_json_and_binary() {
    let guest = Guest::start().await;
    let script = "printf out; printf err >&2; exit 3";
    let result = guest.exec(json!({"cmd": "sh", "args": ["-c", script]})).await.json();
    assert_eq!((text(&result["stdout"]), text(&result["stderr"])), ("out".into(), "err".into()));
    assert_eq!(result["exitCode"], 3);

    let request = ExecRequest { cmd: "sh".into(), args: vec!["-c".into(), script.into()], ..Default::default() };
    let headers = [("content-type", "application/proto")];
    let answer =
        guest.client.send("POST", "/atoll.guest.v1.GuestService/Exec", &headers, request.encode_to_vec()).await;
    let response = ExecResponse::decode_from_slice(&answer.body).expect("a message");
    assert_eq!((response.stdout.as_slice(), response.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
    assert_eq!((response.exit_code, response.signal), (3, 0));
}

#[tokio::test]
async fn input_is_given_in_full_and_then_ends() {
    let guest = Guest::start().await;
    let input = vec![b'x'; 3_000_000];
    let result = guest.exec(json!({"cmd": "wc", "args": ["-c"], "stdin": common::base64(&input)})).await.json();
    assert_eq!(text(&result["stdout"]).trim(), "3000000");
    // One that doesn't read its input isn't waited for.
    let result = guest.exec(json!({"cmd": "true", "stdin": common::base64(&input)})).await.json();
    assert_eq!(result["exitCode"], Value::Null);
}

#[tokio::test]
async fn a_signal_that_ends_a_program_is_told() {
    let guest = Guest::start().await;
    let result = guest.exec(json!({"cmd": "sh", "args": ["-c", "kill -TERM $$"]})).await.json();
    assert_eq!((&result["exitCode"], &result["signal"]), (&json!(143), &json!(15)));
}

#[tokio::test]
async fn when_the_time_is_up_the_whole_group_is_killed() {
    let guest = Guest::start().await;
    let mark = guest.path("grandchild");
    let script = format!("(echo $BASHPID > {mark}; sleep 1000) & wait");
    let result = guest.exec(json!({"cmd": "bash", "args": ["-c", script], "timeoutMs": 500})).await.json();
    assert_eq!((&result["timedOut"], &result["exitCode"]), (&json!(true), &json!(137)));
    let grandchild: u32 = std::fs::read_to_string(&mark).expect("it ran").trim().parse().expect("a pid");
    eventually("the grandchild is gone", async || status_of(grandchild, "State").is_none()).await;
}

#[tokio::test]
async fn too_much_output_kills_and_says_so() {
    let guest = Guest::start().await;
    let result = guest.exec(json!({"cmd": "yes", "maxOutputBytes": 100_000})).await.json();
    assert_eq!((&result["truncated"], &result["exitCode"]), (&json!(true), &json!(137)));
    assert_eq!(text(&result["stdout"]).len(), 100_000);
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_output_open_delays_the_answer_only_a_moment_and_lives_on() {
    let guest = Guest::start().await;
    let mark = guest.path("alive");
    let script = format!("(sleep 1; echo still here; echo yes > {mark}) & echo started");
    let result = guest.exec(json!({"cmd": "sh", "args": ["-c", script]})).await.json();
    assert_eq!(text(&result["stdout"]), "started\n");
    assert!(!std::path::Path::new(&mark).exists());
    // Its writing to a pipe that nobody answers for any more must not kill it.
    eventually("the grandchild has done its work", async || std::path::Path::new(&mark).exists()).await;
}

#[tokio::test]
async fn a_background_program_can_be_found_by_its_tag_and_signalled() {
    let guest = Guest::start().await;
    let script = "trap 'exit 5' USR1; while :; do sleep 0.05; done";
    let request = json!({"cmd": "bash", "args": ["-c", script], "background": true, "tag": "bg"});
    let pid = guest.exec(request).await.json()["pid"].as_u64().expect("a pid");
    let mut events = guest.client.stream("process.Process/Connect", json!({"process": {"tag": "bg"}}), &[]).await;
    assert_eq!(events.pid().await, pid);
    // Until the trap is set the signal would end it otherwise.
    eventually("the program handles the signal", async || {
        status_of(pid as u32, "SigCgt")
            .is_some_and(|mask| u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & 0x200 != 0))
    })
    .await;
    let answer = guest.client.rpc("atoll.guest.v1.GuestService/Signal", json!({"tag": "bg", "signal": 10})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let end = events.until(|message| message["event"]["end"].is_object()).await;
    assert_eq!(end["event"]["end"]["exitCode"], 5);
    let answer = guest.client.rpc("atoll.guest.v1.GuestService/Signal", json!({"tag": "no", "signal": 10})).await;
    assert_eq!(answer.json()["code"], "not_found");
    let answer = guest.client.rpc("atoll.guest.v1.GuestService/Signal", json!({"tag": "bg", "signal": 99})).await;
    assert_eq!(answer.json()["code"], "invalid_argument");
}

#[tokio::test]
async fn what_cant_be_started_is_refused_with_the_reason() {
    let guest = Guest::start().await;
    let plain = guest.path("plain");
    std::fs::write(&plain, "no program").expect("written");
    let huge = "x".repeat(10_000_000);
    for (request, expected) in [
        (json!({"cmd": "no-such-program"}), "program 'no-such-program' was not found"),
        (json!({"cmd": "true", "cwd": "/no/such/place"}), "cwd '/no/such/place' does not exist"),
        (json!({"cmd": "true", "cwd": plain}), "is not a directory"),
        (json!({"cmd": plain}), "permission denied"),
        (json!({"cmd": ""}), "no program was given"),
        (json!({"cmd": "true", "args": ["a\u{0}b"]}), "NUL byte"),
        (json!({"cmd": "true", "envs": {"A=B": "c"}}), "environment variable name"),
        (json!({"cmd": "true", "args": [huge]}), "too long"),
        (json!({"cmd": "true", "cwd": "~other"}), "another user's home"),
    ] {
        let answer = guest.exec(request).await;
        let error = answer.json();
        assert_eq!((answer.status, &error["code"]), (400, &json!("invalid_argument")), "{expected}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(expected)), "{expected}: {error}");
    }
    // The code by which control knows that it was the user, as with the other calls.
    let answer = guest.exec(json!({"cmd": "true", "user": "nobody-here"})).await;
    let error = answer.json();
    assert_eq!((answer.status, &error["code"]), (401, &json!("unauthenticated")), "{error}");
    assert!(
        error["message"].as_str().is_some_and(|message| message.contains("'nobody-here' doesn't exist")),
        "{error}"
    );
}

#[tokio::test]
async fn a_script_without_a_first_line_runs_in_the_shell() {
    let guest = Guest::start().await;
    let script = guest.path("script");
    guest.sh(&format!("echo 'echo \"ran $1\"' > {script}; chmod +x {script}")).await;
    let result = guest.exec(json!({"cmd": script, "args": ["well"]})).await.json();
    assert_eq!(text(&result["stdout"]), "ran well\n");
}

#[tokio::test]
async fn a_program_finds_a_clean_world() {
    let guest = Guest::start().await;
    assert_eq!(guest.sh("grep -E '^Sig(Ign|Blk)' /proc/self/status | cut -f2 | sort -u").await, "0000000000000000\n");
    assert_eq!(guest.sh("umask").await, "0022\n");
    // Of `ls` itself: its three, and the directory that it reads.
    assert_eq!(guest.sh("ls /proc/self/fd | wc -l").await.trim(), "4");
    let ids = guest.sh("ps -o pid=,sid=,pgid= -p $$").await;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "it leads a session and a group of its own: {ids:?}");
    let own: i32 = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", guest.pid()))
        .expect("read")
        .trim()
        .parse()
        .expect("a number");
    assert_eq!(guest.sh("cat /proc/self/oom_score_adj").await.trim(), (own + 500).min(1000).to_string());
}

#[tokio::test]
async fn a_program_runs_as_the_user_asked_for_with_its_groups_home_and_environment() {
    let guest = Guest::start().await;
    let request = json!({"cmd": "sh", "args": ["-c", "id -un; id -gn; echo $HOME $USER $LOGNAME $FROM_CONFIG $E2B_SANDBOX_ID $MINE; pwd"],
        "user": "daemon", "cwd": "/", "envs": {"MINE": "2"}});
    let result = guest.exec(request).await.json();
    assert_eq!(text(&result["stdout"]), "daemon\ndaemon\n/usr/sbin daemon daemon 1 itest 2\n/\n");
}

#[tokio::test]
async fn orphans_are_collected() {
    let guest = Guest::start().await;
    let pids = guest.sh("for i in 1 2 3 4 5; do (sh -c 'sleep 0.1' & echo $!); done").await;
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 5);
    eventually("no orphan is left, not even as a zombie", async || {
        pids.iter().all(|pid| status_of(*pid, "State").is_none())
    })
    .await;
}

#[tokio::test]
async fn many_programs_at_once_all_answer() {
    let guest = Guest::start().await;
    let all = (0..200).map(|number| {
        let request = json!({"cmd": "sh", "args": ["-c", format!("echo {number}; exit {}", number % 7)]});
        guest.exec(request)
    });
    for (number, answer) in futures::future::join_all(all).await.into_iter().enumerate() {
        let result = answer.json();
        assert_eq!(text(&result["stdout"]), format!("{number}\n"));
        assert_eq!(result["exitCode"].as_u64().unwrap_or(0), number as u64 % 7);
    }
    let list = guest.client.rpc("process.Process/List", json!({})).await.json();
    assert_eq!(list, json!({}), "nothing is left in the table");
}

#[tokio::test]
async fn settings_can_be_replaced_and_the_log_tells_what_was_done() {
    let guest = Guest::start().await;
    let answer = guest
        .client
        .rpc(
            "atoll.guest.v1.GuestService/Configure",
            json!({"envs": {"NEW": "yes"}, "defaultUser": "daemon", "defaultWorkdir": "/tmp"}),
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(guest.sh("echo $NEW $FROM_CONFIG $USER; pwd").await, "yes daemon\n/tmp\n");
    assert_eq!(guest.client.get("/envs").await.json()["NEW"], "yes");
    let logs = guest.client.rpc("atoll.guest.v1.GuestService/Logs", json!({})).await.json();
    let lines = logs["lines"].as_array().expect("lines");
    assert!(
        lines.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("started as user daemon")))
    );
    let last = lines.last().expect("a line")["sequence"].as_str().expect("a number").to_owned();
    let none = guest.client.rpc("atoll.guest.v1.GuestService/Logs", json!({"after": last})).await.json();
    assert_eq!(none, json!({}));
    let quiesced = guest.client.rpc("atoll.guest.v1.GuestService/Quiesce", json!({})).await;
    assert_eq!(quiesced.status, 200);
}
