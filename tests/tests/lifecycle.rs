//! Pause, resume, idle timeouts, what lists show.

use atoll_client::{Error, ListSandboxes, command};
use atoll_model::api::sandboxes::{CreateSandboxRequest, TimeoutRequest};
use atoll_model::{OnTimeout, SandboxStatus};
use atoll_tests::{Atoll, until};

#[tokio::test]
async fn a_paused_sandbox_stands_still_and_goes_on_where_it_was() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.02; done";
    atoll.client().exec_background(&id, &command("/bin/bash", ["-c", count])).await.expect("background");
    let read = || async { atoll.sh(&id, "cat /tmp/count").await.stdout.trim().parse::<u64>().unwrap_or(0) };
    let mut last = 0;
    for _ in 0..10 {
        until("the counter to go on", || async { (read().await > last + 1).then_some(()) }).await;
        last = read().await;
        let paused = atoll.client().pause_sandbox(&id).await.expect("pause");
        assert_eq!((paused.status, paused.kept.as_deref()), (SandboxStatus::Paused, Some("memory")));
        match atoll.client().exec(&id, &command("/bin/true", [""; 0])).await {
            Err(Error::Api(error)) => assert_eq!((error.status, error.code.as_str()), (409, "invalid_state")),
            other => panic!("a program ran in a paused sandbox: {other:?}"),
        }
        let resumed = atoll.client().resume_sandbox(&id).await.expect("resume");
        assert_eq!(resumed.status, SandboxStatus::Running);
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn nothing_is_lost_over_two_hundred_pauses() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.01; done";
    atoll.client().exec_background(&id, &command("/bin/bash", ["-c", count])).await.expect("background");
    let mut last = 0;
    for round in 0..200 {
        atoll.client().pause_sandbox(&id).await.expect("pause");
        atoll.client().resume_sandbox(&id).await.expect("resume");
        let script = format!(
            "echo {round} >> rounds; head -c 20000 /dev/urandom > data{round}; sha256sum data{round} >> sums; \
             sha256sum --quiet -c sums && wc -l < rounds; until n=$(cat /tmp/count) && [ $n ]; do :; done; echo $n"
        );
        let answer = atoll.sh(&id, &script).await;
        let numbers: Vec<u64> = answer.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!((answer.exit_code, numbers.len(), numbers[0]), (0, 2, round + 1), "{answer:?}");
        assert!(numbers[1] >= last, "the counter went back from {last} to {}", numbers[1]);
        last = numbers[1];
    }
    assert!(last > 200, "the counter stood still at {last}");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn files_are_read_and_written_with_the_rights_of_their_user() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    atoll.root(&id, "echo secret > /opt/secret; chmod 600 /opt/secret; install -d -m 2775 -g user /opt/shared").await;
    let write = |path: &'static str, user: Option<&'static str>| {
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"mine"));
        let body =
            http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(body, |never| match never {}));
        atoll.client().write_file(&id, path, user, body)
    };
    for path in ["/etc/passwd", "/opt/secret", "/opt/new", "/root/x/y"] {
        match write(path, None).await {
            Err(Error::Api(error)) => assert_eq!((error.status, error.code.as_str()), (403, "forbidden"), "{path}"),
            other => panic!("{path} was written: {other:?}"),
        }
    }
    assert!(atoll.client().read_file(&id, "/opt/secret", None).await.is_err());
    write("deep/er/file", None).await.expect("in one's own home");
    write("/opt/shared/file", None).await.expect("through a group");
    write("/opt/by-root", Some("root")).await.expect("as root");
    let look = "stat -c '%U %n' /home/user/deep/er/file /home/user/deep /opt/shared/file /opt/by-root";
    let expected = "user /home/user/deep/er/file\nuser /home/user/deep\nuser /opt/shared/file\nroot /opt/by-root\n";
    assert_eq!(atoll.root(&id, look).await.stdout, expected);
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn the_idle_timeout_pauses_or_kills_and_activity_holds_it_off() {
    let atoll = Atoll::start().await;
    let request = |on_timeout| CreateSandboxRequest {
        timeout_sec: Some(2),
        on_timeout: Some(on_timeout),
        ..CreateSandboxRequest::default()
    };
    let paused = atoll.sandbox_with(request(OnTimeout::Pause)).await.id;
    let killed = atoll.sandbox_with(request(OnTimeout::Kill)).await.id;
    let held = atoll.sandbox_with(request(OnTimeout::Kill)).await.id;
    let busy = atoll.sandbox_with(request(OnTimeout::Kill)).await.id;
    // A program that runs longer than the timeout is activity.
    let working = atoll.sh(&busy, "sleep 6; echo done");
    let waiting = async {
        for (id, status) in [(&paused, SandboxStatus::Paused), (&killed, SandboxStatus::Stopped)] {
            until(&format!("{id} to be {status}"), || async {
                let sandbox = atoll.client().get_sandbox(id).await.expect("get");
                (sandbox.status == status).then_some(sandbox)
            })
            .await;
        }
    };
    let pinging = async {
        loop {
            atoll.client().ping_sandbox(&held).await.expect("ping");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let (answer, ()) = tokio::select! {
        both = async { tokio::join!(working, waiting) } => both,
        () = pinging => unreachable!("it never ends"),
    };
    assert_eq!(answer.stdout, "done\n");
    let sandbox = atoll.client().get_sandbox(&held).await.expect("get");
    assert_eq!(sandbox.status, SandboxStatus::Running);
    let longer = TimeoutRequest { timeout_sec: 0, on_timeout: None };
    assert_eq!(atoll.client().set_timeout(&held, &longer).await.expect("timeout").timeout_sec, 0);
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn lists_show_what_is_asked_for() {
    let atoll = Atoll::start().await;
    let labelled = |value: &str| CreateSandboxRequest {
        metadata: [("run".to_owned(), value.to_owned())].into(),
        ..CreateSandboxRequest::default()
    };
    let (a, b) = (atoll.sandbox_with(labelled("one & only")).await.id, atoll.sandbox_with(labelled("two")).await.id);
    let c = atoll.sandbox().await.id;
    atoll.client().destroy_sandbox(&c).await.expect("destroy");
    let ids = |what: ListSandboxes| {
        let atoll = &atoll;
        async move {
            let page = atoll.client().list_sandboxes(&what).await.expect("list");
            page.items.into_iter().map(|sandbox| sandbox.id).collect::<Vec<_>>()
        }
    };
    let mut all = ids(ListSandboxes::default()).await;
    all.sort();
    let mut expected = vec![a.clone(), b.clone()];
    expected.sort();
    assert_eq!(all, expected);
    let one = ListSandboxes { metadata: vec![("run".into(), "one & only".into())], ..Default::default() };
    assert_eq!(ids(one).await, [a]);
    let stopped = ListSandboxes { status: vec![SandboxStatus::Stopped], ..Default::default() };
    assert_eq!(ids(stopped).await, [c]);
    atoll.stop_and_check().await;
}
