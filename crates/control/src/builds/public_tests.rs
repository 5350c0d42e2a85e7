//! Templates that a team publishes: who may use them, who may change them, and what lives on when they are no longer public
//! or gone. Over both databases, on machines that only note what is run.

use std::time::Duration;

use atoll_model::api::sandboxes::Sandbox;
use serde_json::{Value, json};

use super::BuildError;
use crate::audit::{Actor, Origin, Owner};
use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app};

/// Builds a template with a layer, to the end. Its id.
async fn built(client: &Client, name: &str, recipe: &str) -> String {
    let made = client.post("/v1/templates", json!({ "name": name, "recipe": recipe })).await.expect(202).json();
    let id = made["template"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/templates/{id}/builds/{}", made["build"]["id"].as_str().unwrap());
    loop {
        match client.get(&path).await.expect(200).json()["status"].as_str().unwrap() {
            "ready" => return id,
            "error" | "cancelled" => panic!("the build of {name} has failed"),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn publish(client: &Client, name: &str, public: bool) -> Value {
    client.patch(&format!("/v1/templates/{name}"), json!({ "public": public })).await.expect(200).json()
}

async fn make(client: &Client, template: &str) -> Sandbox {
    client.post("/v1/sandboxes", json!({ "template": template })).await.expect(201).parsed()
}

async fn slug(test: &TestApp) -> String {
    crate::teams::store::get(&test.app.db, test.team(), None).await.unwrap().unwrap().slug
}

#[tokio::test]
async fn what_a_team_has_published_others_can_start_and_only_the_team_can_change() {
    for db in databases().await {
        let test = app(db).await;
        let (_, agent) = test.fleet.add_host();
        let (ours, theirs) = (test.client.clone(), test.another_team().await);
        let id = built(&ours, "tool:v1", "FROM base\nRUN make it").await;
        assert_eq!(built(&ours, "tool", "FROM base\nRUN make it").await, id);
        let full = format!("{}/tool", slug(&test).await);
        let names = [id.clone(), full.clone(), format!("{}/tool", test.team()), format!("{full}:v1")];
        for name in &names {
            theirs.post("/v1/sandboxes", json!({ "template": name })).await.expect(404);
        }
        theirs.get(&format!("/e2b/templates/aliases/{}", full.replace('/', "%2F"))).await.expect(404);

        theirs.patch(&format!("/v1/templates/{id}"), json!({ "public": true })).await.expect(404);
        ours.patch("/v1/templates/base", json!({ "public": true })).await.expect(403);
        assert_eq!(publish(&ours, "tool", true).await["public"], true);
        for name in &names {
            let made = make(&theirs, name).await;
            assert!(made.template.starts_with(&full), "{} is called by its whole name", made.template);
            assert_eq!(agent.spec_of(&made.id).unwrap().layers.len(), 1);
        }
        theirs.post("/v1/sandboxes", json!({ "template": format!("{full}:v9") })).await.expect(404);
        let seen = theirs.get(&format!("/v1/templates/{}", full.replace('/', "%2F"))).await.expect(200).json();
        assert_eq!((&seen["id"], &seen["name"], &seen["public"]), (&json!(id), &json!(full), &json!(true)));
        let alias = theirs.get(&format!("/e2b/templates/aliases/{}", full.replace('/', "%2F"))).await.expect(200);
        assert_eq!(alias.json(), json!({ "templateID": id, "public": true }));
        assert_eq!(ours.get("/e2b/templates").await.expect(200).json()[0]["public"], true);

        // A bare name is never another team's, and lists have what is one's own.
        theirs.post("/v1/sandboxes", json!({ "template": "tool" })).await.expect(404);
        theirs.get("/e2b/templates/aliases/tool").await.expect(404);
        assert_eq!(theirs.get("/e2b/templates").await.expect(200).json(), json!([]));
        let own = built(&theirs, "tool", "FROM base\nRUN make another").await;
        assert_eq!(make(&theirs, "tool").await.template, "tool");
        assert_ne!(own, id);

        for path in ["", "/tags", "/builds"] {
            ours.get(&format!("/v1/templates/{id}{path}")).await.expect(200);
        }
        for path in ["/tags", "/builds"] {
            theirs.get(&format!("/v1/templates/{id}{path}")).await.expect(404);
        }
        for path in ["", "/tags", "/files/0000000000000000000000000000000000000000000000000000000000000000"] {
            theirs.get(&format!("/e2b/templates/{id}{path}")).await.expect(404);
        }
        for name in [&id, &full.replace('/', "%2F")] {
            theirs.delete(&format!("/v1/templates/{name}")).await.expect(404);
            theirs.patch(&format!("/v1/templates/{name}"), json!({ "public": false })).await.expect(404);
            theirs.patch(&format!("/e2b/v2/templates/{name}"), json!({ "public": false })).await.expect(404);
            theirs.delete(&format!("/e2b/templates/{name}")).await.expect(404);
        }
        theirs.post("/e2b/templates/tags", json!({ "target": full, "tags": ["x"] })).await.expect(404);
        theirs.post("/e2b/v3/templates", json!({ "name": full })).await.expect(403);

        let entries: (i64,) = on!(read & test.app.db, |c| sqlx::query_as(
            "SELECT COUNT(*) FROM audit_logs WHERE action = 'template.publish'"
        )
        .fetch_one(c)
        .await)
        .unwrap();
        assert_eq!(entries.0, 1);
    }
}

#[tokio::test]
async fn what_was_made_of_a_public_template_lives_on_when_it_is_private_again_and_gone() {
    for db in databases().await {
        let test = app(db).await;
        let (_, agent) = test.fleet.add_host();
        let (ours, theirs) = (test.client.clone(), test.another_team().await);
        let id = built(&ours, "tool", "FROM base\nENV FROM=tool\nRUN make it").await;
        let full = format!("{}/tool", slug(&test).await);
        ours.patch("/e2b/v2/templates/tool", json!({ "public": true })).await.expect(200);
        let running = make(&theirs, &full).await;
        // A build from it, in E2B's words.
        let asked = theirs.post("/e2b/v3/templates", json!({ "name": "mine" })).await.expect(202).json();
        let (template, build) = (asked["templateID"].as_str().unwrap(), asked["buildID"].as_str().unwrap());
        let begin = format!("/e2b/v2/templates/{template}/builds/{build}");
        theirs.post(&begin, json!({ "fromTemplate": "nobody/tool" })).await.expect(404);
        let steps = json!([{ "type": "RUN", "args": ["make more"] }]);
        theirs.post(&begin, json!({ "fromTemplate": full, "steps": steps })).await.expect(202);
        loop {
            let now = theirs.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(200).json();
            match now["status"].as_str().unwrap() {
                "ready" => break,
                "error" => panic!("{now}"),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }

        ours.patch("/e2b/templates/tool", json!({ "public": false })).await.expect(200);
        for name in [&full, &id] {
            theirs.post("/v1/sandboxes", json!({ "template": name })).await.expect(404);
            theirs.post("/e2b/v2/sandboxes", json!({ "templateID": name })).await.expect(404);
        }
        ours.delete("/v1/templates/tool").await.expect(204);
        let now = theirs.get(&format!("/v1/sandboxes/{}", running.id)).await.expect(200).json();
        assert_eq!(now["status"], "running");
        let forked = theirs.post(&format!("/v1/sandboxes/{}/fork", running.id), json!({})).await.expect(201).json();
        let child = forked["items"][0]["sandbox"]["id"].as_str().unwrap().to_owned();
        let body = json!({ "sandbox_id": running.id, "name": "kept" });
        theirs.post("/v1/snapshots", body).await.expect(201);

        // Nobody who stands on it is left alone, until the last is gone.
        for sandbox in [running.id.as_str(), child.as_str()] {
            theirs.delete(&format!("/v1/sandboxes/{sandbox}")).await.expect(204);
        }
        test.settle().await;
        test.clock.advance(Duration::from_secs(3600));
        test.app.layers.collect().await.unwrap();
        let (of_mine, of_kept) = (make(&theirs, "mine").await, make(&theirs, "kept").await);
        let bottom = |sandbox: &Sandbox| agent.spec_of(&sandbox.id).unwrap().layers.last().unwrap().id.clone();
        let layer = bottom(&of_mine);
        assert_eq!(layer, bottom(&of_kept), "both stand on what the template was");
        assert_eq!(agent.spec_of(&of_kept.id).unwrap().env.get("FROM").map(String::as_str), Some("tool"));
        let row = async || {
            let found: Option<(String,)> =
                on!(read & test.app.db, |c| sqlx::query_as("SELECT id FROM layers WHERE id = $1")
                    .bind(&layer)
                    .fetch_optional(c)
                    .await)
                .unwrap();
            found.is_some()
        };
        for sandbox in [&of_mine, &of_kept] {
            theirs.delete(&format!("/v1/sandboxes/{}", sandbox.id)).await.expect(204);
        }
        theirs.delete("/v1/templates/mine").await.expect(204);
        test.app.layers.collect().await.unwrap();
        assert!(row().await, "the snapshot stands on it");
        theirs.delete("/v1/snapshots/kept").await.expect(204);
        // Steps of builds are remembered for two weeks.
        test.clock.advance(Duration::from_secs(15 * 24 * 3600));
        test.app.builds.tend(false).await.unwrap();
        test.app.layers.collect().await.unwrap();
        assert!(!row().await);
    }
}

#[tokio::test]
async fn what_a_teams_own_machines_have_written_is_loaded_on_no_other_teams() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let (ours, theirs) = (test.client.clone(), test.another_team().await);
        let id = built(&ours, "tool", "FROM base\nRUN make it").await;
        publish(&ours, "tool", true).await;
        let sql = "UPDATE layers SET byoc = TRUE";
        on!(write & test.app.db, |c| sqlx::query(sql).execute(c).await.map(|_| ())).unwrap();
        let sql = "UPDATE teams SET is_byoc = TRUE";
        on!(write & test.app.db, |c| sqlx::query(sql).execute(c).await.map(|_| ())).unwrap();
        theirs.post("/v1/sandboxes", json!({ "template": id })).await.expect(409);
        publish(&ours, "tool", false).await;
        ours.patch("/v1/templates/tool", json!({ "public": true })).await.expect(409);

        // What is refused leaves nothing behind: no build that waits for files or an image.
        let builds = async || {
            let found: (i64, i64) = on!(read & test.app.db, |c| sqlx::query_as(
                "SELECT (SELECT COUNT(*) FROM template_builds),
                 (SELECT COUNT(*) FROM audit_logs WHERE action = 'template.build')"
            )
            .fetch_one(c)
            .await)
            .unwrap();
            found
        };
        let before = builds().await;
        ours.post("/e2b/v3/templates", json!({ "name": "tool", "public": true })).await.expect(409);
        ours.post("/e2b/templates", json!({ "alias": "tool", "dockerfile": "FROM x", "public": true }))
            .await
            .expect(409);
        assert_eq!(builds().await, before);
        let asked = ours.post("/e2b/v3/templates", json!({ "name": "another", "public": true })).await.expect(202);
        assert_eq!(asked.json()["public"], true);
        ours.post("/e2b/v3/templates", json!({ "name": "tool" })).await.expect(202);
        assert_ne!(builds().await, before);
    }
}

#[tokio::test]
async fn a_template_that_is_deleted_while_it_is_published_is_not_there() {
    for db in databases().await {
        let test = app(db).await;
        let owner = Owner {
            team: test.team().clone(),
            team_is_byoc: false,
            team_network: None,
            actor: Actor::System,
            origin: Origin::default(),
        };
        let builds = &test.app.builds;
        test.client.post("/e2b/v3/templates", json!({ "name": "tool" })).await.expect(202);
        let found = builds.template(&owner, "tool").await.unwrap();
        test.client.delete("/v1/templates/tool").await.expect(204);
        let refused = builds.publish_found(&owner, &found, true).await;
        assert!(matches!(refused, Err(BuildError::NotFound("template"))), "{refused:?}");
        // Nor is it another one of that name.
        test.client.post("/e2b/v3/templates", json!({ "name": "tool" })).await.expect(202);
        let refused = builds.publish_found(&owner, &found, true).await;
        assert!(matches!(refused, Err(BuildError::NotFound("template"))), "{refused:?}");
        let refused = builds.publish(&owner, "base", true).await;
        assert!(matches!(refused, Err(BuildError::Platform(_))), "{refused:?}");
    }
}
