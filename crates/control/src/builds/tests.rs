//! Builds over both databases, on machines that only note what is run.

use std::time::Duration;

use atoll_model::LayerId;
use atoll_model::api::sandboxes::Sandbox;
use atoll_model::api::templates::{Build, BuildStatus, StartedBuild};
use serde_json::json;

use crate::db::testing::databases;
use crate::db::{Text, on};
use crate::testing::{Client, TestApp, app};

async fn started(client: &Client, name: &str, recipe: &str) -> StartedBuild {
    client.post("/v1/templates", json!({ "name": name, "recipe": recipe })).await.expect(202).parsed()
}

async fn read(client: &Client, build: &StartedBuild) -> Build {
    let path = format!("/v1/templates/{}/builds/{}", build.template.id, build.build.id);
    client.get(&path).await.expect(200).parsed()
}

/// To its end.
async fn ended(client: &Client, build: &StartedBuild) -> Build {
    loop {
        let now = read(client, build).await;
        if !matches!(now.status, BuildStatus::Waiting | BuildStatus::Building) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn built(client: &Client, name: &str, recipe: &str) -> StartedBuild {
    let build = started(client, name, recipe).await;
    let end = ended(client, &build).await;
    assert_eq!((end.status, end.reason), (BuildStatus::Ready, None));
    build
}

async fn messages(test: &TestApp, build: &StartedBuild) -> Vec<String> {
    let lines = super::lines::list(&test.app.db, &build.build.id, 0, 1000).await.unwrap();
    lines.into_iter().map(|line| line.message).collect()
}

async fn stands_on(test: &TestApp, build: &StartedBuild) -> Vec<LayerId> {
    let chain = test.app.layers.chain(build.template.id.as_str()).await.unwrap();
    chain.into_iter().map(|layer| layer.id.0).collect()
}

#[tokio::test]
async fn what_one_team_has_built_is_never_what_another_stands_on() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let (ours, theirs) = (test.client.clone(), test.another_team().await);
        let recipe = "FROM base\nRUN make the-same";
        let first = built(&ours, "mine", recipe).await;
        let before = stands_on(&test, &first).await;
        let other = built(&theirs, "mine", recipe).await;
        let others = stands_on(&test, &other).await;
        assert!(
            !before.is_empty() && others.iter().all(|layer| !before.contains(layer)),
            "built anew for another team"
        );
        let again = built(&ours, "mine", recipe).await;
        assert_eq!(stands_on(&test, &again).await, before, "its own step is still its own");
        assert!(messages(&test, &again).await.iter().any(|line| line.contains("as it was built before")));
        let again = built(&theirs, "mine", recipe).await;
        assert_eq!(stands_on(&test, &again).await, others);
        assert_eq!(agent.programs().iter().filter(|it| it.script.contains("the-same")).count(), 2);
    }
}

#[tokio::test]
async fn a_step_that_fails_is_told_with_its_last_words() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let build = started(&test.client, "mine", "FROM base\nRUN last-words and fail").await;
        let end = ended(&test.client, &build).await;
        assert_eq!((end.status, end.step.as_deref()), (BuildStatus::Error, Some("1")));
        let said = messages(&test, &build).await;
        let at =
            |text: &str| said.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {said:?}"));
        assert!(at("it goes wrong") < at("because of this") && at("because of this") < at("exit status 3"));
        test.settle().await;
        assert_eq!(agent.count(), 0);
    }
}

#[tokio::test]
async fn commands_of_a_build_have_its_variables_also_when_no_step_is_built() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let recipe = "FROM base\nENV PORT=8080 PATH=/opt/x:$PATH WHERE='$HOME'\nRUN install\nENV URL=http://localhost:$PORT\n\
                      CMD serve\nREADY ask";
        built(&test.client, "mine", recipe).await;
        built(&test.client, "mine", recipe).await;
        let programs = agent.programs();
        let of = |script: &str| programs.iter().filter(|it| it.script.contains(script)).collect::<Vec<_>>();
        assert_eq!((of("install").len(), of("serve").len(), of("ask").len()), (1, 2, 2));
        for program in of("serve").into_iter().chain(of("ask")) {
            let variable = |name: &str| program.env.get(name).map(String::as_str);
            assert_eq!(variable("PORT"), Some("8080"));
            assert_eq!(variable("URL"), Some("http://localhost:8080"));
            assert_eq!(variable("WHERE"), Some("$HOME"));
            assert!(variable("PATH").is_some_and(|path| path.starts_with("/opt/x:/usr/local/sbin:")));
            assert!(program.script.starts_with("export PATH='/opt/x:/usr"), "{}", program.script);
        }
    }
}

#[tokio::test]
async fn steps_that_lie_on_a_machine_that_is_gone_are_built_anew_elsewhere() {
    for test in databases().await {
        let test = app(test).await;
        let (first, _) = test.fleet.add_host();
        let recipe = "FROM base\nRUN install";
        built(&test.client, "mine", recipe).await;
        test.fleet.remove_host(&first);
        let (_, second) = test.fleet.add_host();
        built(&test.client, "mine", recipe).await;
        assert_eq!(second.programs().iter().filter(|it| it.script.contains("install")).count(), 1);
    }
}

#[tokio::test]
async fn a_cancelled_builds_sandbox_goes_while_others_are_being_built() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let one = started(&test.client, "one", "FROM base\nRUN hang").await;
        let two = started(&test.client, "two", "FROM base\nRUN hang").await;
        while agent.programs().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let cancel = |build: &StartedBuild| format!("/v1/templates/{}/builds/{}", build.template.id, build.build.id);
        test.client.delete(&cancel(&one)).await.expect(202);
        assert_eq!(ended(&test.client, &one).await.status, BuildStatus::Cancelled);
        while agent.count() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(read(&test.client, &two).await.status, BuildStatus::Building);
        test.client.delete(&cancel(&two)).await.expect(202);
        assert_eq!(ended(&test.client, &two).await.status, BuildStatus::Cancelled);
        test.settle().await;
        assert_eq!(agent.count(), 0);
    }
}

#[tokio::test]
async fn a_good_build_is_over_before_its_tall_stack_is_packed() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        built(&test.client, "mine", "FROM base\nRUN step 0").await;
        let held = agent.hold_packs().await;
        let mut last = None;
        for number in 1..10 {
            last = Some(built(&test.client, "mine", &format!("FROM mine\nRUN step {number}")).await);
        }
        let last = last.unwrap();
        assert!(stands_on(&test, &last).await.len() >= crate::layers::SQUASH_AT);
        // Longer than the time after which a build looks whether it is to go on.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        drop(held);
        test.settle().await;
        assert_eq!(stands_on(&test, &last).await.len(), 1, "packed into one");
        assert!(!messages(&test, &last).await.iter().any(|line| line.contains("cancelled")));
        assert_eq!(read(&test.client, &last).await.status, BuildStatus::Ready);
    }
}

#[tokio::test]
async fn what_a_sandbox_was_made_with_is_what_its_children_and_snapshots_get() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        built(&test.client, "mine", "FROM base\nENV A=old\nWORKDIR /old\nCMD serve old").await;
        let body = json!({ "template": "mine", "env": { "A": "own" } });
        let parent: atoll_model::api::sandboxes::Sandbox =
            test.client.post("/v1/sandboxes", body).await.expect(201).parsed();
        built(&test.client, "mine", "FROM base\nENV A=new\nWORKDIR /new\nCMD serve new").await;
        let path = format!("/v1/sandboxes/{}/fork", parent.id);
        let forked = test.client.post(&path, json!({})).await.expect(201).json();
        let child = forked["items"][0]["sandbox"]["id"].as_str().unwrap().parse().unwrap();
        let spec = agent.spec_of(&child).unwrap();
        // Its environment is its parent's, which its host has.
        assert!(spec.env.is_empty(), "{:?}", spec.env);
        assert_eq!((spec.default_workdir.as_str(), spec.startup.cmd.as_str()), ("/old", "serve old"));
        // A child's child and a snapshot of it, too.
        test.client.post("/v1/snapshots", json!({ "sandbox_id": child, "name": "kept" })).await.expect(201);
        let made: atoll_model::api::sandboxes::Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "kept" })).await.expect(201).parsed();
        let spec = agent.spec_of(&made.id).unwrap();
        assert_eq!((spec.default_workdir.as_str(), spec.startup.cmd.as_str()), ("/old", "serve old"));
        assert_eq!(spec.env.get("A").map(String::as_str), Some("old"));
    }
}

#[tokio::test]
async fn rows_of_the_build_cache_are_a_teams_own() {
    for test in databases().await {
        let test = app(test).await;
        test.fleet.add_host();
        built(&test.client, "mine", "FROM base\nRUN make").await;
        let teams: Vec<(Text<atoll_model::TeamId>, String)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT team_id, key FROM build_cache").fetch_all(c).await)
                .unwrap();
        assert_eq!(teams.len(), 1);
        let (team, key) = (&teams[0].0.0, &teams[0].1);
        let now = test.clock.now();
        assert!(super::steps::cached(&test.app.db, key, team, now).await.unwrap());
        assert!(!super::steps::cached(&test.app.db, key, &atoll_model::TeamId::new(), now).await.unwrap());
        // What stands on something lost is forgotten, and what is forgotten holds nothing.
        let host = test.app.layers.chain(key).await.unwrap()[0].host_id.clone().unwrap();
        let mut tx = test.app.db.begin().await.unwrap();
        crate::layers::store::lose_host(&mut tx, &host.0).await.unwrap();
        tx.commit().await.unwrap();
        super::steps::forget(&test.app.db, crate::db::Millis(0)).await.unwrap();
        assert!(!super::steps::cached(&test.app.db, key, team, now).await.unwrap());
        assert!(test.app.layers.chain(key).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn where_there_are_machines_alone_builds_run_in_them_and_what_they_make_is_theirs() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        agent.run_machines_on("QEMU 1");
        let recipe = "FROM base\nRUN make it";
        let first = built(&test.client, "mine", recipe).await;
        assert!(messages(&test, &first).await.iter().any(|line| line.contains("virtual machine")));
        let made = test.client.post("/v1/sandboxes", json!({ "template": "mine" })).await.expect(201);
        let made: serde_json::Value = made.parsed();
        assert_eq!((&made["driver"], &made["disk_mb"]), (&json!("vm"), &json!(5120)));
        let other = json!({ "template": "mine", "driver": "container" });
        test.client.post("/v1/sandboxes", other).await.expect(409);
        // A build from it goes on in a machine, also where there are containers by now.
        let (_, container) = test.fleet.add_host();
        let second = built(&test.client, "next", "FROM mine\nRUN make more").await;
        assert!(messages(&test, &second).await.iter().any(|line| line.contains("virtual machine")));
        // One of base does not, and goes on from nothing that a machine has left.
        let third = built(&test.client, "third", recipe).await;
        let said = messages(&test, &third).await;
        assert!(
            !said.iter().any(|line| line.contains("virtual machine") || line.contains("as it was built before")),
            "{said:?}"
        );
        let made = |agent: &crate::testing::FakeAgent| {
            agent.programs().iter().filter(|it| it.script.contains("make it")).count()
        };
        assert_eq!(made(&agent) + made(&container), 2);
    }
}

#[tokio::test]
async fn a_template_says_what_its_sandboxes_run_in_wherever_they_are_made() {
    for test in databases().await {
        let test = app(test).await;
        let (_, container) = test.fleet.add_host();
        let (_, machines) = test.fleet.add_host();
        machines.run_machines_on("QEMU 1");
        let build = |name: &'static str, recipe: &'static str, driver: &'static str| {
            let client = test.client.clone();
            async move {
                let body = json!({ "name": name, "recipe": recipe, "driver": driver });
                let build: StartedBuild = client.post("/v1/templates", body).await.expect(202).parsed();
                let end = ended(&client, &build).await;
                (build, end)
            }
        };
        let (mine, end) = build("mine", "FROM base\nRUN make it", "vm").await;
        assert_eq!((end.status, end.reason), (BuildStatus::Ready, None));
        // Its steps ran in a container; what they left is everywhere by now.
        assert!(container.programs().iter().any(|it| it.script.contains("make it")));
        let chain = test.app.layers.chain(mine.template.id.as_str()).await.unwrap();
        assert!(!chain.is_empty() && chain.iter().all(|layer| layer.stored));
        let template: serde_json::Value = test.client.get("/v1/templates/mine").await.expect(200).parsed();
        assert_eq!(template["driver"], "vm");
        let made: serde_json::Value =
            test.client.post("/v1/sandboxes", json!({ "template": "mine" })).await.expect(201).parsed();
        assert_eq!(made["driver"], "vm");
        let other = json!({ "template": "mine", "driver": "container" });
        let refused = test.client.post("/v1/sandboxes", other).await.expect(409);
        assert!(refused.json().to_string().contains("`vm`"));
        // What is built from it is as it, and nothing else.
        let (_, end) = build("other", "FROM mine\nRUN make more", "container").await;
        assert!(end.reason.is_some_and(|it| it.contains("virtual machines")));
        let next = built(&test.client, "next", "FROM mine\nENV A=b").await;
        let next: serde_json::Value =
            test.client.get(&format!("/v1/templates/{}", next.template.id)).await.expect(200).parsed();
        assert_eq!(next["driver"], "vm");
        // Of one for containers no machine is made.
        let (_, end) = build("boxes", "FROM base\nRUN make it", "container").await;
        assert_eq!(end.status, BuildStatus::Ready);
        let machine = json!({ "template": "boxes", "driver": "vm" });
        test.client.post("/v1/sandboxes", machine).await.expect(409);
        let odd = json!({ "name": "odd", "recipe": "FROM base", "driver": "magic" });
        assert_eq!(test.client.post("/v1/templates", odd).await.expect(400).field(), "driver");
    }
}

#[tokio::test]
async fn sandboxes_of_a_template_with_memory_go_on_with_it_and_begin_with_its_files_where_no_host_can() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        agent.run_machines_on("QEMU 1");
        let body = |driver: &str| json!({ "name": "served", "recipe": "FROM base\nCMD serve", "driver": driver, "keep_memory": true });
        assert_eq!(test.client.post("/v1/templates", body("auto")).await.expect(400).field(), "keep_memory");
        let build: StartedBuild = test.client.post("/v1/templates", body("vm")).await.expect(202).parsed();
        let end = ended(&test.client, &build).await;
        assert_eq!((end.status, end.reason), (BuildStatus::Ready, None));
        let chain = test.app.layers.chain(build.template.id.as_str()).await.unwrap();
        assert!(chain[0].memory, "{chain:?}");
        let tagged = test.app.layers.chain(build.build.id.as_str()).await.unwrap();
        assert_eq!(tagged[0].id, chain[0].id);
        let make = async |wish: serde_json::Value| -> Sandbox {
            test.client.post("/v1/sandboxes", wish).await.expect(201).parsed()
        };
        let one = make(json!({ "template": "served" })).await;
        assert_eq!(
            (one.driver.as_str(), one.vcpus, one.memory_mb, one.kept.as_deref()),
            ("vm", 1, 512, Some("memory"))
        );
        assert_eq!(agent.spec_of(&one.id).unwrap().start_from, "");
        // After an upgrade its start command runs again, until it is built anew.
        agent.run_machines_on("QEMU 2");
        let two = make(json!({ "template": "served" })).await;
        assert_eq!(two.kept.as_deref(), Some("files"));
        let spec = agent.spec_of(&two.id).unwrap();
        let startup = spec.startup.as_option().map(|startup| startup.cmd.as_str());
        assert_eq!((spec.start_from.as_str(), startup), ("files", Some("serve")));
        let must = json!({ "template": "served", "start_from": "memory" });
        test.client.post("/v1/sandboxes", must).await.expect(409);
        // What is built from it begins with its files.
        let next = built(&test.client, "next", "FROM served\nRUN more").await;
        let chain = test.app.layers.chain(next.template.id.as_str()).await.unwrap();
        assert!(!chain[0].memory, "{chain:?}");
    }
}
