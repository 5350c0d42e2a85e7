//! Bad input gets a clear 4xx that names the field; too much gets 429, 503, 413 or 507; nothing hangs.

use std::time::Duration;

use atoll_client::{Error, Event, Start, command};
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest, ListFilesRequest};
use atoll_tests::{Atoll, in_machines, until};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};

fn api(error: Error) -> (u16, String, Option<String>) {
    match error {
        Error::Api(error) => (error.status, error.code.clone(), error.field.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

#[tokio::test]
async fn absurd_creates_are_refused_and_the_field_is_named() {
    let atoll = Atoll::start().await;
    let of = |change: fn(&mut CreateSandboxRequest)| {
        let mut request = CreateSandboxRequest::default();
        change(&mut request);
        request
    };
    let cases = [
        (of(|r| r.template = Some("no-such-template".into())), 404, "template"),
        (of(|r| r.vcpus = Some(0)), 400, "vcpus"),
        (of(|r| r.vcpus = Some(100_000)), 400, "vcpus"),
        (of(|r| r.memory_mb = Some(0)), 400, "memory_mb"),
        (of(|r| r.memory_mb = Some(u64::MAX)), 400, "memory_mb"),
        (of(|r| r.disk_mb = Some(0)), 400, "disk_mb"),
        (of(|r| r.disk_mb = Some(u64::MAX)), 400, "disk_mb"),
        (of(|r| r.timeout_sec = Some(u64::MAX)), 400, "timeout_sec"),
        (of(|r| r.driver = Some("magic".into())), 400, "driver"),
        // Too little for a kernel of its own, and enough for a container.
        (of(|r| (r.driver, r.memory_mb) = (Some("vm".into()), Some(64))), 400, "memory_mb"),
        (of(|r| drop(r.env.insert("A=B".into(), "x".into()))), 400, "env"),
        (of(|r| drop(r.env.insert("A".into(), "x\0y".into()))), 400, "env.A"),
    ];
    let small = (of(|r| r.memory_mb = Some(64)), 400, "memory_mb");
    for (request, status, field) in cases.into_iter().chain(in_machines().then_some(small)) {
        let error = atoll.client().create_sandbox(&request).await.expect_err(field);
        let (got, _, named) = api(error);
        assert_eq!((got, named.as_deref()), (status, Some(field)), "{request:?}");
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn absurd_programs_and_paths_are_refused() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let client = atoll.client();
    let huge = command("/bin/echo", ["x".repeat(10 << 20)]);
    let (status, code, _) = api(client.exec(&id, &huge).await.expect_err("10 MB of command line"));
    assert!(matches!(status, 400 | 413), "{status} {code}");
    let no_such = api(client.exec(&id, &command("/no/such/program", ["x"])).await.expect_err("no program"));
    assert_eq!(no_such.0, 400, "{no_such:?}");
    let run = || command("/bin/true", [""; 0]);
    let refused = [
        (ExecRequest { cwd: Some("/no/such/place".into()), ..run() }, "cwd"),
        (ExecRequest { cwd: Some("/etc/passwd".into()), ..run() }, "cwd"),
        (ExecRequest { cwd: Some("/root".into()), user: Some("user".into()), ..run() }, "cwd"),
        (ExecRequest { user: Some("nobody-here".into()), ..run() }, "user"),
        (ExecRequest { cmd: "no-such-program".into(), ..run() }, "cmd"),
        (ExecRequest { cmd: "/etc/passwd".into(), ..run() }, "cmd"),
        (ExecRequest { args: vec!["x".repeat(200_000)], ..run() }, "args"),
    ];
    for (request, field) in refused {
        let (status, _, named) = api(client.exec(&id, &request).await.expect_err(field));
        assert_eq!((status, named.as_deref()), (400, Some(field)), "cwd {:?}, cmd {}", request.cwd, request.cmd);
    }
    let nobody = ExecRequest { user: Some("no-such-user".into()), ..command("/bin/true", [""; 0]) };
    assert_eq!(api(client.exec(&id, &nobody).await.expect_err("no user")).0, 400);
    for path in ["", "/tmp/a\0b", &"x/".repeat(5000)] {
        let error = client.write_file_bytes(&id, path, "x").await.expect_err("a bad path");
        assert_eq!(api(error).0, 400, "{path:.20}");
    }
    // `..` stays inside: the root of the sandbox has nothing above it.
    client.write_file_bytes(&id, "/../../../tmp/dots", "inside").await.expect("a path with dots");
    assert_eq!(&client.read_file_bytes(&id, "/tmp/dots").await.expect("reading")[..], b"inside");
    let missing = ListFilesRequest { path: "/no/such".into(), depth: None, user: None };
    assert_eq!(api(client.list_files(&id, &missing).await.expect_err("no directory")).0, 404);
    client.make_directory(&id, "/tmp/dir").await.expect("mkdir");
    assert_eq!(api(client.make_directory(&id, "/tmp/dir").await.expect_err("mkdir again")).0, 409);
    assert_eq!(api(client.read_file_bytes(&id, "/no/such").await.expect_err("no file")).0, 404);
    atoll.assert_well(&id).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn an_upload_beyond_the_disk_quota_is_told_so_and_leaves_room() {
    let atoll = Atoll::start().await;
    let (id, neighbour) = (
        atoll.sandbox_with(CreateSandboxRequest { disk_mb: Some(256), ..Default::default() }).await.id,
        atoll.sandbox().await.id,
    );
    let chunk = Bytes::from(vec![7_u8; 1 << 20]);
    // 5 GB, of which the server need not take more than it can keep.
    let frames =
        std::iter::repeat_n(chunk, 5 << 10).map(|bytes| Ok::<_, std::io::Error>(http_body::Frame::data(bytes)));
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    match atoll.client().write_file(&id, "/home/user/huge", None, body).await {
        Err(Error::Api(error)) => assert!(matches!(error.status, 413 | 507), "{error:?}"),
        other => panic!("5 GB into 256 MB: {other:?}"),
    }
    atoll.assert_well(&neighbour).await;
    let answer = atoll.sh(&id, "rm -f /home/user/huge; sync; for i in $(seq 50); do echo x > /home/user/x && exit 0; sleep 0.2; done; exit 1").await;
    assert_eq!(answer.exit_code, 0, "{answer:?}");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_binary_on_stdout_comes_through_byte_by_byte() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let start = Start { cmd: Some("/bin/cat".into()), args: vec!["/bin/bash".into()], ..Start::default() };
    let mut session = atoll.client().exec_stream(&id, start).await.expect("exec/stream");
    let mut bytes = Vec::new();
    loop {
        match session.next().await.expect("an event") {
            Some(Event::Stdout(data)) => bytes.extend_from_slice(&data),
            Some(Event::Exited { code, .. }) => {
                assert_eq!(code, 0);
                break;
            }
            Some(_) => {}
            None => panic!("the stream ended without an exit"),
        }
    }
    assert_eq!(bytes, atoll.client().read_file_bytes(&id, "/bin/bash").await.expect("reading"));
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_at_its_timeout() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let request = ExecRequest {
        timeout_sec: Some(1),
        ..command("/bin/bash", ["-c", "trap '' TERM INT HUP; while :; do sleep 0.1; done"])
    };
    let (status, code, _) = api(atoll.client().exec(&id, &request).await.expect_err("it never ends by itself"));
    assert_eq!((status, code.as_str()), (504, "timeout"));
    until("the program to be gone", || async {
        let list = atoll.client().list_processes(&id).await.expect("processes");
        list.items.is_empty().then_some(())
    })
    .await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_leaves_nothing_running() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let start = Start { cmd: Some("/bin/sleep".into()), args: vec!["1000".into()], ..Start::default() };
    let mut session = atoll.client().exec_stream(&id, start).await.expect("exec/stream");
    assert!(matches!(session.next().await.expect("an event"), Some(Event::Started { .. })));
    drop(session);
    until("the program to end with its client", || async {
        let list = atoll.client().list_processes(&id).await.expect("processes");
        list.items.is_empty().then_some(())
    })
    .await;
    // In the middle of an upload.
    let frames = futures::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Some((Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(&[0; 4096]))), n + 1))
    });
    let body = StreamBody::new(frames).boxed_unsync();
    let upload = atoll.client().write_file(&id, "/tmp/half", None, body);
    assert!(tokio::time::timeout(Duration::from_millis(300), upload).await.is_err());
    atoll.assert_well(&id).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn five_hundred_creates_at_once_each_get_a_clear_answer() {
    let atoll = Atoll::start().await;
    let memory_mb = Some(if in_machines() { 128 } else { 64 });
    let request = CreateSandboxRequest { memory_mb, disk_mb: Some(64), ..Default::default() };
    let answers = futures::future::join_all((0..500).map(|_| atoll.client().create_sandbox(&request))).await;
    let mut made = 0;
    for answer in answers {
        match answer {
            Ok(_) => made += 1,
            Err(error) => {
                let (status, code, _) = api(error);
                assert!(matches!(status, 429 | 503), "{status} {code}");
            }
        }
    }
    let least = if in_machines() { 5 } else { 50 };
    assert!(made >= least, "only {made} of 500 were made");
    let ids: Vec<_> = list_all(&atoll).await;
    assert_eq!(ids.len(), made, "what was answered and what is listed differ");
    for id in ids.iter().step_by(25) {
        assert_eq!(atoll.sh(id, "echo hi").await.stdout, "hi\n");
    }
    for chunk in ids.chunks(50) {
        futures::future::join_all(
            chunk.iter().map(|id| async { atoll.client().destroy_sandbox(id).await.expect("destroying") }),
        )
        .await;
    }
    atoll.stop_and_check().await;
}

async fn list_all(atoll: &Atoll) -> Vec<atoll_model::SandboxId> {
    let mut what = atoll_client::ListSandboxes { limit: Some(1000), ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = atoll.client().list_sandboxes(&what).await.expect("listing");
        ids.extend(page.items.into_iter().map(|sandbox| sandbox.id));
        match page.next_cursor {
            Some(cursor) => what.cursor = Some(cursor),
            None => return ids,
        }
    }
}
