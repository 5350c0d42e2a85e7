//! What the export promises, on both databases.

mod collector;
mod failing;

use atoll_model::SandboxId;
use atoll_rpc::atoll::host::v1::SandboxMetrics;
use serde_json::json;

use super::wire::Number;
use super::*;
use crate::db::on;
use crate::db::testing::{TestDb, databases, sqlite};
use crate::testing::{FakeAgent, TestApp, app_with, insert_online_host};
use collector::{FakeCollector, attribute, outline, points, sandboxes};

const INTERVAL: Duration = Duration::from_secs(60);

/// An app that exports there, with one host that is online.
async fn setup(database: TestDb) -> (TestApp, FakeAgent, FakeCollector) {
    let collector = FakeCollector::start().await;
    let test = app_with(database, |config| {
        config.otlp = Some(collector.settings());
        config.public_url = Some("https://atoll.example.com".to_owned());
    })
    .await;
    let (host, agent) = test.fleet.add_host();
    insert_online_host(&test, &host).await;
    (test, agent, collector)
}

fn exporter(test: &TestApp, replica: &str) -> Exporter {
    Exporter::new(&test.app, test.app.config.otlp.clone().unwrap(), replica)
}

async fn sandbox(test: &TestApp) -> String {
    test.client.post("/v1/sandboxes", json!({})).await.expect(201).json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_runs_is_told_with_what_it_is_and_uses() {
    for database in databases().await {
        let (test, agent, collector) = setup(database).await;
        let (id, paused, build) = (sandbox(&test).await, sandbox(&test).await, sandbox(&test).await);
        test.client.post(&format!("/v1/sandboxes/{paused}/pause"), json!({})).await.expect(200);
        let sql = "UPDATE sandboxes SET purpose = 'build' WHERE id = $1";
        on!(write & test.app.db, |c| sqlx::query(sql).bind(&build).execute(c).await.map(|_| ())).unwrap();
        // It tells of others, of one twice, and no numbers.
        let lie = |id: &str| SandboxMetrics { id: id.to_owned(), cpu_pct: f64::NAN, ..Default::default() };
        for unasked in [SandboxId::new().as_str(), paused.as_str(), id.as_str(), "nonsense"] {
            agent.also_tell(lie(unasked));
        }
        exporter(&test, "a").round().await;
        let came = collector.taken();
        assert_eq!(sandboxes(&came), std::slice::from_ref(&id));
        let row = test.client.get(&format!("/v1/sandboxes/{id}")).await.json();
        let now = nanos(test.clock.now());
        for (name, values) in [
            ("container.cpu.time", vec![Number::Double(2.5)]),
            ("container.cpu.usage", vec![Number::Double(0.5)]),
            ("container.memory.usage", vec![Number::Int(1)]),
            ("container.filesystem.usage", vec![Number::Int(2)]),
            ("container.network.io", vec![Number::Int(3), Number::Int(4)]),
            ("atoll.sandbox.processes", vec![Number::Int(5)]),
        ] {
            let points = points(&came, name);
            assert_eq!(points.iter().filter_map(|point| point.value).collect::<Vec<_>>(), values, "{name}");
            for point in points {
                assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (now, now), "{name}");
                for (key, value) in [
                    ("container.id", id.as_str()),
                    ("atoll.team.id", test.team().as_str()),
                    ("atoll.template", "base"),
                    ("atoll.host.id", row["host_id"].as_str().unwrap()),
                    ("atoll.driver", row["driver"].as_str().unwrap()),
                ] {
                    assert_eq!(attribute(&point.attributes, key).as_deref(), Some(value), "{name}");
                }
            }
        }
        let ways = points(&came, "container.network.io");
        let ways: Vec<_> = ways.iter().map(|point| attribute(&point.attributes, "network.io.direction")).collect();
        assert_eq!(ways, [Some("receive".to_owned()), Some("transmit".to_owned())]);
        for (headers, message) in &came {
            let header = |name: &str| headers[name].to_str().unwrap();
            assert_eq!((header("content-type"), header("content-encoding")), ("application/x-protobuf", "gzip"));
            assert_eq!(header("api-key"), "collectors own");
            let resource = &message.resource_metrics[0].resource.as_ref().unwrap().attributes;
            assert_eq!(attribute(resource, "service.name").as_deref(), Some("atoll"));
            assert_eq!(attribute(resource, "service.namespace").as_deref(), Some("atoll.example.com"));
        }
    }
}

#[tokio::test]
async fn each_replica_tells_of_itself_and_one_of_the_sandboxes_until_its_lease_is_over() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        sandbox(&test).await;
        let (mut a, mut b) = (exporter(&test, "a"), exporter(&test, "b"));
        // With the sandboxes, or without; but for what all replicas count.
        let told = |instance: &str, all| {
            let of = |instance: Option<&str>, name: &str| (instance.map(str::to_owned), name.to_owned());
            let mut told = vec![of(Some(instance), "atoll.http.requests")];
            if all {
                told.extend([of(None, "atoll.sandboxes"), of(None, "container.cpu.time")]);
            }
            told
        };
        let round = async |exporter: &mut Exporter| {
            exporter.round().await;
            let outline = outline(&collector.taken()).into_iter();
            outline.map(|(instance, names)| (instance, names[0].clone())).collect::<Vec<_>>()
        };
        for _ in 0..3 {
            assert_eq!(round(&mut a).await, told("a", true));
            assert_eq!(round(&mut b).await, told("b", false));
            test.clock.advance(INTERVAL);
        }
        // It doesn't come any more: a round later its lease is over.
        assert_eq!(round(&mut b).await, told("b", false));
        test.clock.advance(INTERVAL + MARGIN + Duration::from_millis(1));
        assert_eq!(round(&mut b).await, told("b", true));
        assert_eq!(round(&mut a).await, told("a", false));
    }
}

#[tokio::test]
async fn what_metrics_shows_is_exported_under_the_same_names() {
    let (test, _, collector) = setup(sqlite().await).await;
    sandbox(&test).await;
    exporter(&test, "a").round().await;
    let came = collector.taken();
    let shown = crate::http::metrics::text(&test.app).await.unwrap();
    let typed = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names: Vec<_> = outline(&came).into_iter().flat_map(|(_, names)| names).collect();
    for (name, kind) in typed.filter(|(name, _)| *name != "atoll_info") {
        let plain = if kind == "counter" { name.strip_suffix("_total").unwrap() } else { name };
        let plain = if kind == "histogram" { plain.strip_suffix("_seconds").unwrap() } else { plain };
        assert!(names.iter().any(|exported| exported.replace('.', "_") == plain), "{name} is not in {names:?}");
    }
    assert!(shown.contains("atoll_otlp_requests_total{result=\"taken\"} 3\n"), "{shown}");
}

#[tokio::test]
async fn many_sandboxes_come_in_batches_each_once() {
    for database in databases().await {
        let (test, _, collector) = setup(database).await;
        let (host, _) = test.fleet.add_host();
        insert_online_host(&test, &host).await;
        let mut ids = Vec::new();
        for _ in 0..7 {
            ids.push(sandbox(&test).await);
        }
        // Three of them on the other host.
        for id in &ids[4..] {
            let sql = "UPDATE sandboxes SET host_id = $1 WHERE id = $2";
            let update = on!(write & test.app.db, |c| sqlx::query(sql)
                .bind(host.as_str())
                .bind(id)
                .execute(c)
                .await
                .map(|_| ()));
            update.unwrap();
        }
        ids.sort();
        let mut exporter = exporter(&test, "a");
        exporter.batch = 2;
        exporter.round().await;
        let came = collector.taken();
        assert_eq!(sandboxes(&came), ids);
        let sizes: Vec<_> =
            came.iter().map(|one| sandboxes(std::slice::from_ref(one)).len()).filter(|n| *n > 0).collect();
        assert_eq!(sizes, [2, 2, 2, 1]);
    }
}

#[tokio::test]
async fn a_server_exports_by_itself_and_gives_its_lease_up_at_its_end() {
    for database in databases().await {
        let collector = FakeCollector::start().await;
        let test = app_with(database, |config| {
            let endpoint = format!("http://{}/in", collector.address);
            config.otlp = Some(OtlpSettings::parse(&endpoint, "", Some(Duration::from_secs(1))).unwrap());
        })
        .await;
        let running = tokio::spawn(run(test.app.clone()));
        // Two rounds of two requests each.
        collector.wait_for(4).await;
        test.app.shutdown.cancel();
        running.await.unwrap();
        let lease = leases::take(&test.app.db, LEASE, "another", test.clock.now(), INTERVAL).await.unwrap();
        assert!(lease.is_some());
    }
}

#[tokio::test]
async fn without_an_address_nothing_is_exported() {
    let test = app_with(sqlite().await, |_| {}).await;
    run(test.app.clone()).await;
    let shown = crate::http::metrics::text(&test.app).await.unwrap();
    assert!(!shown.contains("otlp"), "{shown}");
}
