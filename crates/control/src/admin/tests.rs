//! What platform admins can do, and that nobody else can.

use atoll_model::api::auth::Role;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{TestApp, app};

async fn count(test: &TestApp, sql: &'static str) -> i64 {
    let row: (i64,) = on!(read & test.app.db, |c| sqlx::query_as(sql).fetch_one(c).await).unwrap();
    row.0
}

#[tokio::test]
async fn byoc_is_switched_idempotently_and_stays_on_while_there_are_hosts() {
    for database in databases().await {
        let test = app(database).await;
        let admin = test.first().await;
        let path = format!("/v1/admin/teams/{}/byoc", test.team());
        for _ in 0..2 {
            assert_eq!(admin.put(&path, json!({ "enabled": true })).await.status, StatusCode::NO_CONTENT);
        }
        assert_eq!(count(&test, "SELECT COUNT(*) FROM audit_logs WHERE action = 'team.byoc'").await, 1);
        let host = admin.post("/v1/hosts", json!({ "type": "byoc" })).await.json();
        let refused = admin.put(&path, json!({ "enabled": false })).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "conflict"));
        assert_eq!(refused.json()["error"]["hosts"], 1);
        admin.delete(&format!("/v1/hosts/{}", host["host"]["id"].as_str().unwrap())).await;
        assert_eq!(admin.put(&path, json!({ "enabled": false })).await.status, StatusCode::NO_CONTENT);
        let nowhere = "/v1/admin/teams/team-aaaaaaaaaaaaaaaaaaaa/byoc";
        assert_eq!(admin.put(nowhere, json!({ "enabled": true })).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_demoted_admin_is_out_at_once_and_the_last_one_stays() {
    for database in databases().await {
        let test = app(database).await;
        let admin = test.first().await;
        let other = test.person("Hal").await;
        let path = format!("/v1/admin/users/{}/admin", other.id);
        assert_eq!(other.client.get("/v1/admin/teams").await.status, StatusCode::FORBIDDEN);
        admin.put(&path, json!({ "enabled": true })).await;
        assert_eq!(other.client.get("/v1/admin/teams").await.status, StatusCode::OK);
        admin.put(&path, json!({ "enabled": false })).await;
        assert_eq!(other.client.get("/v1/admin/teams").await.status, StatusCode::FORBIDDEN);
        let own = format!("/v1/admin/users/{}", test.admin.user_id);
        assert_eq!(admin.put(&format!("{own}/admin"), json!({ "enabled": false })).await.code(), "conflict");
        assert_eq!(admin.put(&format!("{own}/active"), json!({ "enabled": false })).await.code(), "conflict");
    }
}

#[tokio::test]
async fn an_account_that_is_switched_off_is_refused_at_once_and_comes_back_without_its_sessions() {
    for database in databases().await {
        let test = app(database).await;
        let admin = test.first().await;
        let person = test.person("Ida").await;
        let path = format!("/v1/admin/users/{}/active", person.id);
        admin.put(&path, json!({ "enabled": false })).await;
        assert_eq!(person.client.get("/v1/me").await.status, StatusCode::UNAUTHORIZED);
        let shown = admin.get(&format!("/v1/admin/users/{}", person.id)).await.json();
        assert_eq!(shown["is_active"], false);
        admin.put(&path, json!({ "enabled": true })).await;
        assert_eq!(person.client.get("/v1/me").await.status, StatusCode::UNAUTHORIZED, "old sessions stay ended");
    }
}

fn names(page: &Value, field: &str) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    let mut names: Vec<_> = items.map(|item| item[field].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn lists_have_filters_totals_and_pages() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let admin = test.first().await;
        for name in ["Jan", "Joy", "Kim"] {
            test.person(name).await;
        }
        test.colleague("Lee", Role::Member).await;
        let teams = admin.get("/v1/admin/teams?limit=2").await.json();
        assert_eq!((names(&teams, "name").len(), teams["total"].clone()), (2, json!(5)));
        let next = teams["next_cursor"].as_str().unwrap();
        let more = admin.get(&format!("/v1/admin/teams?limit=4&cursor={next}")).await.json();
        assert_eq!((names(&more, "name").len(), &more["next_cursor"]), (3, &Value::Null));
        let found = admin.get("/v1/admin/users?q=J").await.json();
        assert_eq!((names(&found, "name"), found["total"].clone()), (vec!["Jan".into(), "Joy".into()], json!(2)));
        assert_eq!(admin.get("/v1/admin/users?q=%25").await.json()["total"], 0, "a pattern's signs mean themselves");
        assert_eq!(names(&admin.get("/v1/admin/users?admin=true").await.json(), "email"), ["admin@example.test"]);
        let here = format!("/v1/admin/users?team_id={}", test.team());
        assert_eq!(admin.get(&here).await.json()["total"], 2);
        let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].clone();
        let all = admin.get("/v1/admin/sandboxes?status=running&template=base").await.json();
        assert_eq!(
            (&all["items"][0]["id"], &all["total"], &all["items"][0]["team_name"]),
            (&id, &json!(1), &json!("Default"))
        );
        let tail = id.as_str().unwrap().split_once('-').unwrap().1.to_owned();
        for (q, total) in [(&*tail, 1), (&*format!("i{tail}"), 1), ("defau", 1), ("BAS", 1), ("nobody", 0), ("%25", 0)]
        {
            let found = admin.get(&format!("/v1/admin/sandboxes?q={q}")).await.json();
            assert_eq!(found["total"], total, "{q}");
        }
        assert_eq!(admin.get("/v1/admin/sandboxes?status=stopped").await.json()["total"], 0);
        admin.post("/v1/hosts", json!({ "name": "rack-1" })).await;
        let hosts = admin.get("/v1/admin/hosts?q=rack&type=regular&status=pending").await.json();
        assert_eq!((names(&hosts, "name"), &hosts["total"]), (vec!["rack-1".to_owned()], &json!(1)));
        assert_eq!(admin.get("/v1/admin/hosts?status=odd").await.field(), "status");
    }
}
