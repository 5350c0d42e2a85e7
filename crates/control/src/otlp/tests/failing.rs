//! What a collector or a host that fails may cost, and what not.

use super::collector::sandboxes;
use super::*;

#[tokio::test]
async fn a_host_that_does_not_answer_costs_its_own_samples_and_no_others() {
    for database in databases().await {
        let (test, agent, collector) = setup(database).await;
        let gone = sandbox(&test).await;
        agent.fill();
        let (host, _) = test.fleet.add_host();
        insert_online_host(&test, &host).await;
        let there = sandbox(&test).await;
        assert_ne!(gone, there);
        let row = test.client.get(&format!("/v1/sandboxes/{gone}")).await.expect(200).json();
        test.app.sandboxes.fleet().evict(&row["host_id"].as_str().unwrap().parse().unwrap());
        agent.set_unreachable(true);
        exporter(&test, "a").round().await;
        assert_eq!(sandboxes(&collector.taken()), [there]);
    }
}

#[tokio::test]
async fn a_collector_that_fails_is_left_alone_for_a_while_and_asked_again() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        let id = sandbox(&test).await;
        for (status, headers) in [
            (429, vec![("retry-after", "90")]),
            (503, vec![("retry-after", "90")]),
            (503, vec![]),
            (500, vec![]),
            (401, vec![]),
            (404, vec![]),
            (302, vec![("location", "http://127.0.0.1:1/")]),
        ] {
            let mut exporter = exporter(&test, "a");
            collector.answer(status, &headers);
            exporter.round().await;
            assert_eq!(collector.taken().len(), 1, "{status}: no further request of that round");
            if headers.iter().any(|(name, _)| *name == "retry-after") {
                test.clock.advance(Duration::from_secs(89));
                exporter.round().await;
                assert_eq!(collector.count(), 0, "{status}: it asked for 90 s");
                test.clock.advance(Duration::from_secs(1));
            }
            // The second time in a row costs a pause.
            exporter.round().await;
            exporter.round().await;
            assert_eq!(collector.taken().len(), 1, "{status}");
            collector.answer(200, &[]);
            test.clock.advance(Duration::from_secs(3600));
            exporter.round().await;
            assert_eq!(sandboxes(&collector.taken()), std::slice::from_ref(&id), "{status}: what is true then");
        }
        let failed = test.app.otlp.failed.load(Ordering::Relaxed);
        assert_eq!(failed, 7 * 2);
    }
}

#[tokio::test]
async fn a_request_that_is_refused_for_what_is_in_it_does_not_keep_the_others_back() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        sandbox(&test).await;
        for status in [400, 413] {
            let mut exporter = exporter(&test, "a");
            collector.answer(status, &[]);
            exporter.round().await;
            assert_eq!(collector.taken().len(), 3, "{status}");
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_away_is_no_matter_of_anybody_elses() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        let mut exporter = exporter(&test, "a");
        // A port where nobody listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let there = std::mem::replace(
            &mut exporter.settings,
            OtlpSettings::parse(&format!("http://{free}"), "", Some(INTERVAL)).unwrap(),
        );
        exporter.round().await;
        assert_eq!(test.app.otlp.failed.load(Ordering::Relaxed), 1);
        let id = sandbox(&test).await;
        exporter.settings = there;
        exporter.round().await;
        assert_eq!(sandboxes(&collector.taken()), [id]);
    }
}

#[tokio::test]
async fn a_collector_that_is_slow_keeps_nothing_waiting_but_the_export() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        collector.hangs.send_replace(true);
        let mut exporter = exporter(&test, "a");
        let round = tokio::spawn(async move { exporter.round().await });
        collector.wait_for(1).await;
        let id = sandbox(&test).await;
        assert!(!round.is_finished());
        collector.hangs.send_replace(false);
        round.await.unwrap();
        assert_eq!(sandboxes(&collector.taken()), [id]);
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_is_given_up() {
    let (test, _, collector) = setup(sqlite().await).await;
    collector.hangs.send_replace(true);
    exporter(&test, "a").round().await;
    assert_eq!((collector.count(), test.app.otlp.failed.load(Ordering::Relaxed)), (1, 1));
}
