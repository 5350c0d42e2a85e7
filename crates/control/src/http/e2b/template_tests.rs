//! Templates in E2B's words, without machines or on such that only note what is run: what is asked for, uploaded, begun,
//! listed and refused, and what tags are given to.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app};

async fn requested(test: &TestApp, name: &str) -> (String, String) {
    let made = test.client.post("/e2b/v3/templates", json!({ "name": name, "memoryMB": 768 })).await.expect(202).json();
    (made["templateID"].as_str().unwrap().to_owned(), made["buildID"].as_str().unwrap().to_owned())
}

async fn status(client: &Client, template: &str, build: &str) -> Value {
    client.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(200).json()
}

#[tokio::test]
async fn a_build_is_asked_for_then_begun_once_and_its_end_is_told() {
    for db in databases().await {
        let test = app(db).await;
        let (template, build) = requested(&test, "mine:v1").await;
        assert_eq!(status(&test.client, &template, &build).await["status"], "waiting");
        let begin = format!("/e2b/v2/templates/{template}/builds/{build}");
        for (body, field) in [
            (json!({}), "fromImage"),
            (json!({ "fromImage": "a b" }), "fromImage"),
            (json!({ "fromImage": "debian:12", "fromTemplate": "base" }), "fromImage"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "JUMP" }] }), "JUMP"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "RUN", "args": [] }] }), "RUN"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "ENV", "args": ["A"] }] }), "ENV"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "COPY", "args": ["a", "b"] }] }), "filesHash"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "WORKDIR", "args": [""] }] }), "WORKDIR"),
            (json!({ "fromImage": "debian:12", "fromImageRegistry": { "type": "aws", "awsRegion": "x" } }), "aws"),
            (json!({ "fromImage": "debian:12", "fromImageRegistry": { "type": "carrier pigeon" } }), "pigeon"),
        ] {
            let told = test.client.post(&begin, body.clone()).await.expect(400).json();
            assert_eq!(told["code"], 400, "{body} {field}: {told}");
        }
        // There are no machines: the build fails at its sandbox.
        let recipe =
            json!({ "fromTemplate": "base", "steps": [{ "type": "RUN", "args": ["true", ""], "force": false }] });
        test.client.post(&begin, recipe.clone()).await.expect(202);
        test.client.post(&begin, recipe).await.expect(409);
        let ended = loop {
            let now = status(&test.client, &template, &build).await;
            if now["status"] == "error" {
                break now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((&ended["reason"]["step"], &ended["buildID"]), (&json!("base"), &json!(build)), "{ended}");
        assert!(!ended["logEntries"].as_array().unwrap().is_empty());
        let far = format!("/e2b/templates/mine/builds/{build}/status?logsOffset=100000");
        assert_eq!(test.client.get(&far).await.expect(200).json()["logEntries"], json!([]));
        let backward = format!("/e2b/templates/mine/builds/{build}/logs?direction=backward&limit=1&level=error");
        let last = test.client.get(&backward).await.expect(200).json()["logs"][0].clone();
        assert_eq!((&last["message"], &last["level"]), (&ended["reason"]["message"], &json!("error")));
    }
}

#[tokio::test]
async fn names_belong_to_the_team_and_nobody_else_sees_them() {
    for db in databases().await {
        let test = app(db).await;
        let (template, build) = requested(&test, " Mine ").await;
        let found = test.client.get("/e2b/templates/aliases/mine").await.expect(200).json();
        assert_eq!(found, json!({ "templateID": template, "public": false }));
        let shown = test.client.get(&format!("/e2b/templates/{template}")).await.expect(200).json();
        let name = shown["names"][0].as_str().unwrap().to_owned();
        assert!(name.ends_with("/mine"), "{shown}");
        let encoded = name.replace('/', "%2F");
        test.client.get(&format!("/e2b/templates/aliases/{encoded}")).await.expect(200);
        test.client.get("/e2b/templates/aliases/mine:v9").await.expect(404);
        assert_eq!((&shown["memoryMB"], &shown["builds"][0]["buildID"]), (&json!(768), &json!(build)));
        let listed = test.client.get("/e2b/v2/templates?limit=1").await.expect(200);
        assert_eq!(listed.json()[0]["templateID"], json!(template));
        assert!(!listed.headers.contains_key("x-next-token"));
        assert_eq!(test.client.get("/e2b/default-templates").await.expect(200).json()[0]["names"], json!(["base"]));
        let named = test.client.patch("/e2b/templates/mine", json!({ "public": true })).await.expect(200).json();
        assert_eq!(named["names"], json!([name]));
        assert_eq!(test.client.get("/e2b/templates/aliases/mine").await.expect(200).json()["public"], true);
        test.client.patch("/e2b/v2/templates/mine", json!({ "public": false })).await.expect(200);
        test.client.patch("/e2b/v2/templates/base", json!({})).await.expect(403);
        for (name, code) in [("other/mine", 403), ("a b", 400), ("mine:", 400), (":v1", 400)] {
            test.client.post("/e2b/v3/templates", json!({ "name": name })).await.expect(code);
        }

        let other = test.another_team().await;
        for path in ["/e2b/templates/mine", "/e2b/templates/mine/tags", "/e2b/templates/aliases/mine"] {
            other.get(path).await.expect(404);
        }
        other.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(404);
        other
            .post(&format!("/e2b/v2/templates/{template}/builds/{build}"), json!({ "fromTemplate": "base" }))
            .await
            .expect(404);
        other.delete("/e2b/templates/mine").await.expect(404);
        assert_eq!(other.get("/e2b/v2/templates").await.expect(200).json(), json!([]));

        // Never built: nothing to tag, nothing to run.
        test.client.post("/e2b/templates/tags", json!({ "target": "mine", "tags": ["x"] })).await.expect(404);
        test.client.post("/e2b/v2/sandboxes", json!({ "templateID": name })).await.expect(409);
        test.client.delete("/e2b/templates/base").await.expect(403);
        test.client.delete("/e2b/templates/mine").await.expect(204);
        test.client.delete("/e2b/templates/mine").await.expect(404);
    }
}

#[tokio::test]
async fn files_are_uploaded_by_whoever_has_the_address_and_nobody_else() {
    for db in databases().await {
        let test = app(db).await;
        let (template, _) = requested(&test, "mine").await;
        let hash = "0a".repeat(32);
        let client = test.client.with("host", "127.0.0.1:7420");
        let ask = async || client.get(&format!("/e2b/templates/{template}/files/{hash}")).await.expect(201).json();
        let asked = ask().await;
        assert_eq!(asked["present"], false);
        let url = asked["url"].as_str().unwrap();
        let path = url.strip_prefix("http://127.0.0.1:7420").unwrap();
        let anonymous = test.client.anonymous();
        anonymous.send(Method::PUT, path, "an archive").await.expect(200);
        assert_eq!(ask().await["present"], true);
        anonymous.send(Method::PUT, "/e2b/uploads/0123456789abcdef0123456789abcdef", "x").await.expect(404);
        test.clock.advance(Duration::from_secs(3601));
        anonymous.send(Method::PUT, path, "too late").await.expect(404);
        client.get(&format!("/e2b/templates/{template}/files/nonsense")).await.expect(400);
        // What another team uploads under the same hash is its own.
        let other = test.another_team().await;
        other.post("/e2b/v3/templates", json!({ "name": "mine" })).await.expect(202);
        let asked = other.get(&format!("/e2b/templates/mine/files/{hash}")).await.expect(201).json();
        assert_eq!(asked["present"], false);
    }
}

/// Builds a template `mine`, a second later than the one before. What the build is called here.
async fn built(test: &TestApp, tags: &[&str]) -> String {
    test.clock.advance(Duration::from_secs(1));
    let wish = json!({ "name": "mine", "tags": tags });
    let made = test.client.post("/e2b/v3/templates", wish).await.expect(202).json();
    let (template, build) = (made["templateID"].as_str().unwrap(), made["buildID"].as_str().unwrap());
    let begin = format!("/e2b/v2/templates/{template}/builds/{build}");
    test.client.post(&begin, json!({ "fromTemplate": "base" })).await.expect(202);
    loop {
        match status(&test.client, template, build).await["status"].as_str().unwrap() {
            "ready" => return build.to_owned(),
            "error" => panic!("the build has failed"),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn groups(client: &Client, query: &str) -> Value {
    client.get(&format!("/e2b/templates/mine/tags/groups?{query}")).await.expect(200).json()
}

fn texts<'a>(list: &'a Value, member: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[member].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_a_tag_was_given_to_is_told_the_last_first() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let first = built(&test, &["v1", "stable"]).await;
        let second = built(&test, &["v2"]).await;
        let assign = json!({ "target": "mine:v2", "tags": ["stable"] });
        test.clock.advance(Duration::from_secs(1));
        test.client.post("/e2b/templates/tags", assign).await.expect(201);
        // What isn't ready has no tag yet.
        test.client.post("/e2b/v3/templates", json!({ "name": "mine", "tags": ["later"] })).await.expect(202);

        let all = groups(&test.client, "").await;
        assert_eq!((texts(&all["tags"], "tag"), &all["nextCursor"]), (vec!["stable", "v2", "v1"], &Value::Null));
        let stable = &all["tags"][0];
        assert_eq!(
            (texts(&stable["assignments"], "buildId"), &stable["hasMore"]),
            (vec![&*second, &*first], &json!(false))
        );
        let given = &stable["assignments"][0];
        assert_eq!(given["assignmentId"].as_str().unwrap().len(), 36);
        for time in ["assignedAt", "buildCreatedAt", "buildFinishedAt"] {
            assert!(given[time].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{given}");
        }
        assert!(given["assignedAt"].as_str() > given["buildFinishedAt"].as_str(), "it was given to it afterwards");
        let one = groups(&test.client, "assignmentLimit=1&search=STAB").await;
        assert_eq!((texts(&one["tags"], "tag"), &one["tags"][0]["hasMore"]), (vec!["stable"], &json!(true)));
        assert_eq!(texts(&one["tags"][0]["assignments"], "buildId"), [&*second]);
        assert_eq!(groups(&test.client, "search=_").await["tags"], json!([]), "a sign of LIKE is none here");

        for (sort, tags) in [
            ("latest_desc", ["stable", "v2", "v1"]),
            ("latest_asc", ["v1", "v2", "stable"]),
            ("name_asc", ["stable", "v1", "v2"]),
            ("name_desc", ["v2", "v1", "stable"]),
        ] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = groups(&test.client, &format!("sort={sort}&tagsLimit=1&tagsCursor={cursor}")).await;
                seen.extend(texts(&page["tags"], "tag").into_iter().map(str::to_owned));
                let Some(next) = page["nextCursor"].as_str() else { break };
                cursor = next.replace('|', "%7C");
            }
            assert_eq!(seen, tags, "{sort}");
        }

        let of = async |query: &str| {
            let path = format!("/e2b/templates/mine/tags/stable/assignments?{query}");
            test.client.get(&path).await.expect(200).json()
        };
        let all = of("").await;
        assert_eq!((texts(&all["data"], "buildId"), &all["nextCursor"]), (vec![&*second, &*first], &Value::Null));
        let page = of("limit=1").await;
        assert_eq!(page["data"], json!([all["data"][0]]));
        let rest = of(&format!("limit=1&cursor={}", page["nextCursor"].as_str().unwrap().replace('|', "%7C"))).await;
        assert_eq!((&rest["data"], &rest["nextCursor"]), (&json!([all["data"][1]]), &Value::Null));
        let other = test.another_team().await;
        for path in ["/e2b/templates/mine/tags/groups", "/e2b/templates/mine/tags/stable/assignments"] {
            other.get(path).await.expect(404);
        }

        // A tag that is taken away has no past, and neither has a template that is gone.
        test.client
            .send(Method::DELETE, "/e2b/templates/tags", json!({ "name": "mine", "tags": ["stable"] }).to_string())
            .await
            .expect(204);
        assert_eq!(of("").await["data"], json!([]));
        test.client.delete("/e2b/templates/mine").await.expect(204);
        let left: (i64,) = on!(read & test.app.db, |c| sqlx::query_as("SELECT COUNT(*) FROM template_tag_assignments")
            .fetch_one(c)
            .await)
        .unwrap();
        assert_eq!(left.0, 0);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_question_for_tags_is_named() {
    for db in databases().await {
        let test = app(db).await;
        requested(&test, "mine").await;
        let cursor = "latest_asc%7C1%7Cv1";
        for (path, field) in [
            ("groups?tagsLimit=0", "tagsLimit"),
            ("groups?tagsLimit=101", "tagsLimit"),
            ("groups?assignmentLimit=26", "assignmentLimit"),
            ("groups?assignmentLimit=x", "assignmentLimit"),
            ("groups?sort=size", "sort"),
            ("groups?search=a%2Fb", "search"),
            ("groups?tagsCursor=x", "tagsCursor"),
            ("groups?tagsCursor=latest_desc%7C1", "tagsCursor"),
            ("groups?tagsCursor=latest_desc%7C1%7Ca%7Cb", "tagsCursor"),
            (&format!("groups?tagsCursor={cursor}"), "another sort"),
            ("v1/assignments?limit=101", "limit"),
            ("v1/assignments?cursor=1", "cursor"),
            ("v1/assignments?cursor=x%7Cy", "cursor"),
            ("a%20b/assignments", "tag"),
        ] {
            let told = test.client.get(&format!("/e2b/templates/mine/tags/{path}")).await.expect(400).json();
            assert!(told["message"].as_str().unwrap().contains(field), "{path}: {told}");
        }
        assert_eq!(groups(&test.client, &format!("sort=latest_asc&tagsCursor={cursor}")).await["tags"], json!([]));
    }
}

#[tokio::test]
async fn tags_from_before_their_past_was_kept_begin_it_with_what_they_have() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        built(&test, &["v1", "v2"]).await;
        let before = groups(&test.client, "sort=name_asc").await;
        let migration = match &test.app.db {
            crate::db::Db::Sqlite { .. } => include_str!("../../../migrations/sqlite/0200_tag_assignments.sql"),
            crate::db::Db::Postgres(_) => include_str!("../../../migrations/postgres/0200_tag_assignments.sql"),
        };
        let filling = &migration[migration.find("INSERT").unwrap()..];
        for sql in ["DELETE FROM template_tag_assignments", filling] {
            on!(write & test.app.db, |c| sqlx::query(sqlx::AssertSqlSafe(sql)).execute(c).await.map(|_| ())).unwrap();
        }
        let after = groups(&test.client, "sort=name_asc").await;
        let id = |given: &Value| given["tags"][0]["assignments"][0]["assignmentId"].as_str().unwrap().to_owned();
        assert_eq!((id(&after).len(), &id(&after)[14..15]), (36, "4"));
        let with_ids = |mut groups: Value| {
            for group in groups["tags"].as_array_mut().unwrap() {
                group["assignments"][0]["assignmentId"] = Value::Null;
            }
            groups
        };
        assert_eq!(with_ids(after), with_ids(before));
    }
}
