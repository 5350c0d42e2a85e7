//! The process service: streams, input, signals, terminals.

mod common;

use atoll_rpc::buffa::Message;
use atoll_rpc::process::__buffa::oneof::process_event::Event;
use atoll_rpc::process::{ProcessConfig, StartRequest, StartResponse};
use bytes::Bytes;
use common::client::{build, envelope};
use common::{Events, Guest, base64, eventually, status_of, text};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};

fn shell(script: &str) -> Value {
    json!({"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": false})
}

fn terminal(script: &str, columns: u32, rows: u32) -> Value {
    json!({"process": {"cmd": "/bin/bash", "args": ["--norc", "--noprofile", "-c", script]}, "pty": {"size": {"cols": columns, "rows": rows}}})
}

/// All of one kind of output, and the end.
async fn collect(mut events: Events, kind: &str) -> (String, Value) {
    let mut output = String::new();
    loop {
        let message = events.next().await.expect("the stream goes on to its end");
        let event = &message["event"];
        output.push_str(&text(&event["data"][kind]));
        if event["end"].is_object() {
            let end = event["end"].clone();
            assert_eq!(events.next().await, Some(json!({"END": {}})));
            return (output, end);
        }
    }
}

#[tokio::test]
async fn a_stream_has_a_start_data_and_an_end() {
    let guest = Guest::start().await;
    let mut events = guest.start_process(shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!(events.status, 200);
    assert!(events.pid().await > 0);
    let all = events.all().await;
    let of = |kind: &str| all.iter().map(|message| text(&message["event"]["data"][kind])).collect::<String>();
    assert_eq!((of("stdout"), of("stderr")), ("out\n".into(), "err\n".into()));
    let end = json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!(all[all.len() - 2]["event"]["end"], end);
    assert_eq!(all[all.len() - 1], json!({"END": {}}));
}

#[tokio::test]
async fn the_binary_format_is_spoken_too() {
    let guest = Guest::start().await;
    let config = ProcessConfig { cmd: "echo".into(), args: vec!["hello".into()], ..Default::default() };
    let request = StartRequest { process: config.into(), ..Default::default() };
    let body = Full::new(envelope(0, &request.encode_to_vec())).map_err(|never| match never {}).boxed();
    let headers = [("content-type", "application/connect+proto")];
    let response =
        guest.client.try_request(build("POST", "/process.Process/Start", &headers, body)).await.expect("an answer");
    let mut body = response.into_body().collect().await.expect("a body").to_bytes();
    let mut kinds = Vec::new();
    while body.len() >= 5 && body[0] == 0 {
        let length = u32::from_be_bytes(body[1..5].try_into().expect("four bytes")) as usize;
        let message = StartResponse::decode_from_slice(&body[5..5 + length]).expect("a message");
        kinds.push(match message.event.into_option().and_then(|event| event.event) {
            Some(Event::Start(_)) => "start",
            Some(Event::Data(_)) => "data",
            Some(Event::End(end)) if end.exited && end.exit_code == 0 => "end",
            other => panic!("unexpected: {other:?}"),
        });
        body = body.slice(5 + length..);
    }
    assert_eq!(kinds, ["start", "data", "end"]);
}

#[tokio::test]
async fn the_end_waits_for_whoever_holds_the_output_unless_a_signal_was_sent() {
    let guest = Guest::start().await;
    let events = guest.start_process(shell("(sleep 0.3; echo late) & echo early")).await;
    assert_eq!(collect(events, "stdout").await.0, "early\nlate\n");

    let mut events = guest.start_process(shell("setsid sh -c 'echo $$; exec sleep 1000' & wait")).await;
    let pid = events.pid().await;
    let data = events.until(|message| message["event"]["data"].is_object()).await;
    let holder: u32 = text(&data["event"]["data"]["stdout"]).trim().parse().expect("a pid");
    let answer = guest
        .client
        .rpc("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let end = events.until(|message| message["event"]["end"].is_object()).await;
    let expected = json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"});
    assert_eq!(end["event"]["end"], expected);
    assert!(status_of(holder, "State").is_some(), "what isn't in its group lives on");
    guest.sh(&format!("kill -9 {holder}")).await;
}

#[tokio::test]
async fn a_reader_that_goes_neither_kills_nor_blocks_the_process() {
    let guest = Guest::start().await;
    let mark = guest.path("done");
    let mut events =
        guest.start_process(shell(&format!("sleep 0.2; head -c 5000000 /dev/zero; echo x > {mark}"))).await;
    events.pid().await;
    drop(events);
    eventually("the process has written all and gone on", async || std::path::Path::new(&mark).exists()).await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_process_and_fills_no_memory() {
    let guest = Guest::start().await;
    let mut events = guest.start_process(shell("head -c 200000000 /dev/zero")).await;
    let shell_pid = events.pid().await as u32;
    // Nobody reads: the writer must come to a halt, long before it is through.
    let written = || -> u64 {
        let children =
            std::fs::read_to_string(format!("/proc/{shell_pid}/task/{shell_pid}/children")).unwrap_or_default();
        let pid = children.split_whitespace().next().map_or(shell_pid, |pid| pid.parse().expect("a pid"));
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
    };
    let (mut last, mut unchanged) = (0, 0);
    eventually("the writer stands still", async || {
        let now = written();
        unchanged = if now == last && now > 0 { unchanged + 1 } else { 0 };
        last = now;
        unchanged > 20
    })
    .await;
    assert!(last < 5_000_000, "it wrote {last} bytes that nobody took");
    let memory: u64 =
        status_of(guest.pid(), "VmHWM").expect("known").trim_end_matches(" kB").parse().expect("a number");
    assert!(memory < 64 * 1024, "the guest took {memory} kB");
    // And when the reader reads, all arrives.
    let mut total = 0;
    while let Some(message) = events.next().await {
        let data = message["event"]["data"]["stdout"].as_str().unwrap_or("");
        total += data.len() / 4 * 3 - data.chars().rev().take_while(|c| *c == '=').count();
    }
    assert_eq!(total, 200_000_000);
}

#[tokio::test]
async fn connecting_hears_what_is_new_and_the_end_even_a_moment_late() {
    let guest = Guest::start().await;
    let gate = guest.path("gate");
    let mut request = shell(&format!("echo old; until [ -e {gate} ]; do sleep 0.02; done; echo new; exit 4"));
    request["tag"] = json!("mine");
    let mut first = guest.start_process(request).await;
    let pid = first.pid().await;
    first.until(|message| text(&message["event"]["data"]["stdout"]) == "old\n").await;
    let mut second = guest.client.stream("process.Process/Connect", json!({"process": {"tag": "mine"}}), &[]).await;
    assert_eq!(second.pid().await, pid);
    std::fs::write(&gate, "").expect("written");
    let (heard, end) = collect(second, "stdout").await;
    assert_eq!((heard.as_str(), &end["exitCode"]), ("new\n", &json!(4)));
    collect(first, "stdout").await;

    let late = guest.client.stream("process.Process/Connect", json!({"process": {"pid": pid}}), &[]).await.all().await;
    assert_eq!(late[0]["event"]["start"]["pid"], pid);
    assert_eq!(late[1]["event"]["end"]["exitCode"], 4);
    let unknown =
        guest.client.stream("process.Process/Connect", json!({"process": {"pid": 999_999}}), &[]).await.all().await;
    assert_eq!(unknown[0]["END"]["error"]["code"], "not_found");
}

#[tokio::test]
async fn the_callers_timeout_kills_the_process_and_is_the_streams_error() {
    let guest = Guest::start().await;
    let request = shell("sleep 1000 & wait");
    let mut events = guest.client.stream("process.Process/Start", request, &[("connect-timeout-ms", "500")]).await;
    let pid = events.pid().await as u32;
    let end = events.until(|message| message["END"].is_object()).await;
    assert_eq!(end["END"]["error"]["code"], "deadline_exceeded");
    assert_eq!(status_of(pid, "State"), None, "it is gone when the caller hears of it");
    let list = guest.client.rpc("process.Process/List", json!({})).await.json();
    assert_eq!(list, json!({}));
}

#[tokio::test]
async fn silence_is_filled_with_keepalives() {
    let guest = Guest::start().await;
    let headers = [("keepalive-ping-interval", "1")];
    let mut events = guest.client.stream("process.Process/Start", shell("sleep 3"), &headers).await;
    events.until(|message| message["event"]["keepalive"].is_object()).await;
}

#[tokio::test]
async fn input_reaches_the_process_in_order_and_can_be_closed() {
    let guest = Guest::start().await;
    let mut events = guest.start_process(json!({"process": {"cmd": "cat"}})).await;
    let pid = events.pid().await;
    let selector = json!({"pid": pid});
    for part in ["one ", "two "] {
        let answer = guest
            .client
            .rpc("process.Process/SendInput", json!({"process": selector, "input": {"stdin": base64(part.as_bytes())}}))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // The streaming way, cut into chunks as a client would send them.
    let messages = [
        json!({"start": {"process": selector}}),
        json!({"data": {"input": {"stdin": base64(b"three ")}}}),
        json!({"keepalive": {}}),
        json!({"data": {"input": {"stdin": base64(b"four")}}}),
    ];
    let frames = messages.map(|message| Ok(http_body::Frame::data(envelope(0, message.to_string().as_bytes()))));
    let body = StreamBody::new(futures::stream::iter(frames)).boxed();
    let headers = [("content-type", "application/connect+json")];
    let response = guest
        .client
        .try_request(build("POST", "/process.Process/StreamInput", &headers, body))
        .await
        .expect("an answer");
    let answer = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(!String::from_utf8_lossy(&answer).contains("error"), "{answer:?}");

    let wrong = json!({"process": selector, "input": {"pty": base64(b"x")}});
    assert_eq!(guest.client.rpc("process.Process/SendInput", wrong).await.json()["code"], "internal");
    let close = async || guest.client.rpc("process.Process/CloseStdin", json!({"process": selector})).await.status;
    assert_eq!(close().await, 200);
    // Once more does no harm, unless the process has ended of it in the meantime.
    assert!(matches!(close().await, 200 | 404));
    assert_eq!(collect(events, "stdout").await.0, "one two three four");

    let mut deaf = guest.start_process(shell("sleep 1000")).await;
    let pid = deaf.pid().await;
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64(b"x")}});
    assert_eq!(guest.client.rpc("process.Process/SendInput", input).await.json()["code"], "internal");
    assert_eq!(
        guest.client.rpc("process.Process/SendInput", json!({"process": {"pid": pid}})).await.json()["code"],
        "unimplemented"
    );
    assert_eq!(
        guest.client.rpc("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": 2})).await.json()["code"],
        "unimplemented"
    );
    assert_eq!(
        guest
            .client
            .rpc("process.Process/Update", json!({"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}}))
            .await
            .json()["code"],
        "internal"
    );
    let listed = guest.client.rpc("process.Process/List", json!({})).await.json();
    assert_eq!(listed["processes"][0]["config"]["args"], json!(["-c", "sleep 1000"]));
    guest.client.rpc("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"})).await;
    assert_eq!(collect(deaf, "stdout").await.1["status"], "signal: terminated");
}

#[tokio::test]
async fn a_terminal_has_its_size_can_be_resized_and_controls_its_programs() {
    let guest = Guest::start().await;
    let mut events =
        guest.start_process(terminal("stty size; read line; echo ready-$(stty size); exec sleep 1000", 100, 40)).await;
    let pid = events.pid().await;
    events.until(|message| text(&message["event"]["data"]["pty"]).contains("40 100")).await;
    let update = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 120, "rows": 50}}});
    assert_eq!(guest.client.rpc("process.Process/Update", update).await.status, 200);
    let send = |data: &'static [u8]| {
        guest.client.rpc("process.Process/SendInput", json!({"process": {"pid": pid}, "input": {"pty": base64(data)}}))
    };
    assert_eq!(send(b"go\n").await.status, 200);
    events.until(|message| text(&message["event"]["data"]["pty"]).contains("ready-50 120")).await;
    assert_eq!(
        guest.client.rpc("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await.json()["code"],
        "unknown"
    );
    // Ctrl-C goes through the terminal to the program that it controls.
    assert_eq!(send(b"\x03").await.status, 200);
    let (_, end) = collect(events, "pty").await;
    assert_eq!(end["status"], "signal: interrupt");
}

#[tokio::test]
async fn two_hundred_terminals_work_side_by_side() {
    let guest = Guest::start().await;
    let mut all = Vec::new();
    for number in 0..200 {
        all.push(guest.start_process(terminal(&format!("read x; echo $x-{number}"), 80, 24)).await);
    }
    for (number, events) in all.iter_mut().enumerate() {
        let pid = events.pid().await;
        let input = json!({"process": {"pid": pid}, "input": {"pty": base64(b"hi\n")}});
        assert_eq!(guest.client.rpc("process.Process/SendInput", input).await.status, 200);
        let wanted = format!("hi-{number}");
        events.until(|message| text(&message["event"]["data"]["pty"]).contains(&wanted)).await;
    }
}

#[tokio::test]
async fn errors_of_starting_come_as_the_contract_says() {
    let guest = Guest::start().await;
    let error = async |request: Value, headers: &[(&str, &str)]| {
        let all = guest.client.stream("process.Process/Start", request, headers).await.all().await;
        let error = &all[0]["END"]["error"];
        (error["code"].as_str().unwrap_or("").to_owned(), error["message"].as_str().unwrap_or("").to_owned())
    };
    let mut lost = shell("true");
    lost["process"]["cwd"] = json!("/no/such/place");
    assert_eq!(error(lost, &[]).await, ("invalid_argument".into(), "cwd '/no/such/place' does not exist".into()));
    let nobody = format!("Basic {}", base64(b"nobody-here:"));
    let refused = error(shell("true"), &[("authorization", &nobody)]).await;
    assert_eq!(refused, ("unauthenticated".into(), "invalid username: 'nobody-here'".into()));
    assert_eq!(error(json!({"process": {"cmd": "no-such-program"}}), &[]).await.0, "invalid_argument");
    assert_eq!(error(json!({}), &[]).await.0, "invalid_argument");

    let daemon = format!("Basic {}", base64(b"daemon:"));
    let mut request = shell("id -un");
    request["process"]["cwd"] = json!("/");
    let events = guest.client.stream("process.Process/Start", request, &[("authorization", &daemon)]).await;
    assert_eq!(collect(events, "stdout").await.0, "daemon\n");
}

#[tokio::test]
async fn a_message_that_is_too_large_or_broken_is_refused_and_the_guest_lives_on() {
    let guest = Guest::start().await;
    let large = vec![b' '; 20 * 1024 * 1024];
    let headers = [("content-type", "application/json")];
    // The guest may hang up before it has been sent in full.
    if let Some(answer) = guest.client.try_send("POST", "/process.Process/SendInput", &headers, large).await {
        assert_eq!(answer.json()["code"], "resource_exhausted", "{}", answer.text());
    }
    for body in [&b""[..], b"{", b"\x00\x00\x00", b"\xff\xff\xff\xff\xff", b"\x00\x7f\xff\xff\xff{}"] {
        for content_type in ["application/json", "application/proto", "application/connect+json", "text/html"] {
            for method in ["Start", "List", "StreamInput", "Nothing"] {
                let path = format!("/process.Process/{method}");
                let headers = [("content-type", content_type)];
                let _ = guest.client.try_send("POST", &path, &headers, Bytes::copy_from_slice(body)).await;
            }
        }
    }
    assert_eq!(guest.client.get("/health").await.status, 204);
}
