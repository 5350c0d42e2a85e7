//! What teams promise, over the API and on both databases.

use atoll_model::api::auth::Role;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{Answer, TestApp, app};

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.json());
}

async fn audited(test: &TestApp, action: &str) -> Vec<Value> {
    let rows: Vec<(sqlx::types::Json<Value>,)> =
        on!(read & test.app.db, |c| sqlx::query_as("SELECT details FROM audit_logs WHERE action = $1 ORDER BY at, id")
            .bind(action)
            .fetch_all(c)
            .await)
        .unwrap();
    rows.into_iter().map(|row| row.0.0).collect()
}

#[tokio::test]
async fn a_team_is_made_renamed_and_deleted_by_its_owner() {
    for database in databases().await {
        let test = app(database).await;
        let ada = test.person("Ada").await;
        let made = ada.client.post("/v1/teams", json!({ "name": "Research & Tools" })).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.json());
        let team = made.json();
        assert_eq!((&team["slug"], &team["role"]), (&json!("research-tools"), &json!("owner")));
        let second = ada.client.post("/v1/teams", json!({ "name": "Research & Tools" })).await.json();
        assert!(second["slug"].as_str().unwrap().starts_with("research-tools-"));
        let path = format!("/v1/teams/{}", team["id"].as_str().unwrap());
        let renamed = ada.client.patch(&path, json!({ "name": "Lab", "slug": "lab" })).await;
        assert_eq!((&renamed.json()["name"], &renamed.json()["slug"]), (&json!("Lab"), &json!("lab")));
        let other = format!("/v1/teams/{}", second["id"].as_str().unwrap());
        refused(&ada.client.patch(&other, json!({ "slug": "lab" })).await, 409, "name_taken");
        for bad in ["", "Lab", "a--b", "-a", "a_b"] {
            assert_eq!(ada.client.patch(&path, json!({ "slug": bad })).await.field(), "slug");
        }
        assert_eq!(ada.client.get(&path).await.json()["members"][0]["email"], "ada@example.test");
        assert_eq!(ada.client.get("/v1/teams").await.json()["items"].as_array().unwrap().len(), 3);
        assert_eq!(ada.client.delete(&path).await.status, StatusCode::NO_CONTENT);
        refused(&ada.client.get(&path).await, 404, "not_found");
        let changes = audited(&test, "team.update").await;
        assert_eq!(
            (&changes[0]["before"]["slug"], &changes[0]["after"]["slug"]),
            (&json!("research-tools"), &json!("lab"))
        );
        assert_eq!(audited(&test, "team.delete").await.len(), 1);
    }
}

#[tokio::test]
async fn a_team_with_sandboxes_or_hosts_is_not_deleted() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let owner = test.first().await;
        let path = format!("/v1/teams/{}", test.team());
        let sandbox = test.client.post("/v1/sandboxes", json!({})).await.json();
        let full = owner.delete(&path).await;
        refused(&full, 409, "conflict");
        assert_eq!((&full.json()["error"]["sandboxes"], &full.json()["error"]["hosts"]), (&json!(1), &json!(0)));
        test.client.delete(&format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).await;
        let byoc = format!("/v1/admin/teams/{}/byoc", test.team());
        assert_eq!(owner.put(&byoc, json!({ "enabled": true })).await.status, StatusCode::NO_CONTENT);
        let host = owner.post("/v1/hosts", json!({ "type": "byoc" })).await.json();
        refused(&owner.delete(&path).await, 409, "conflict");
        owner.delete(&format!("/v1/hosts/{}", host["host"]["id"].as_str().unwrap())).await;
        assert_eq!(owner.delete(&path).await.status, StatusCode::NO_CONTENT);
        // The key went with the team; the person goes on in a team of their own, made at that moment.
        refused(&test.client.get("/v1/sandboxes").await, 401, "unauthorized");
        let teams = owner.get("/v1/teams").await.json();
        assert_eq!(teams["items"].as_array().unwrap().len(), 1);
        assert_eq!(owner.get("/v1/me").await.json()["team_id"], teams["items"][0]["id"]);
    }
}

#[tokio::test]
async fn members_are_managed_by_role_and_the_last_owner_stays() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let (admin, member) = (test.colleague("Bea", Role::Admin).await, test.colleague("Cy", Role::Member).await);
        let newcomer = test.person("Dee").await;
        let members = format!("/v1/teams/{}/members", test.team());
        let of = |person: &atoll_model::UserId| format!("{members}/{person}");
        let add = |role: &str| json!({ "email": "Dee@Example.test", "role": role });

        refused(&member.client.post(&members, add("member")).await, 403, "forbidden");
        refused(&admin.client.post(&members, add("owner")).await, 403, "forbidden");
        refused(&admin.client.post(&members, json!({ "email": "x@example.test" })).await, 404, "not_found");
        let added = admin.client.post(&members, add("member")).await;
        assert_eq!((added.status, added.json()["email"].clone()), (StatusCode::CREATED, json!("dee@example.test")));
        refused(&admin.client.post(&members, add("member")).await, 409, "conflict");
        assert_eq!(newcomer.client.get(&members).await.json()["items"].as_array().unwrap().len(), 4);

        refused(&member.client.patch(&of(&newcomer.id), json!({ "role": "admin" })).await, 403, "forbidden");
        refused(&admin.client.patch(&of(&newcomer.id), json!({ "role": "owner" })).await, 403, "forbidden");
        let first = test.admin.user_id.clone();
        refused(&admin.client.patch(&of(&first), json!({ "role": "member" })).await, 403, "forbidden");
        refused(&admin.client.delete(&of(&first)).await, 403, "forbidden");
        refused(&owner.patch(&of(&first), json!({ "role": "member" })).await, 409, "conflict");
        let leave = format!("/v1/teams/{}/leave", test.team());
        refused(&owner.post(&leave, json!({})).await, 409, "conflict");
        refused(&owner.delete(&of(&first)).await, 409, "conflict");

        let promoted = owner.patch(&of(&admin.id), json!({ "role": "owner" })).await;
        assert_eq!(promoted.json()["role"], "owner");
        assert_eq!(owner.post(&leave, json!({})).await.status, StatusCode::NO_CONTENT);
        assert_eq!(admin.client.delete(&of(&newcomer.id)).await.status, StatusCode::NO_CONTENT);
        refused(&newcomer.client.get(&members).await, 404, "not_found");
        assert_eq!(member.client.post(&leave, json!({})).await.status, StatusCode::NO_CONTENT);
        assert_eq!(audited(&test, "member.leave").await.len(), 2);
        assert_eq!(
            audited(&test, "member.update").await,
            [json!({ "before": { "role": "admin" }, "after": { "role": "owner" } })]
        );
    }
}

#[tokio::test]
async fn a_person_who_loses_a_team_is_signed_in_to_another_at_once() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let person = test.colleague("Eve", Role::Admin).await;
        assert_eq!(person.client.get("/v1/me").await.json()["team_id"], json!(test.team()));
        owner.delete(&format!("/v1/teams/{}/members/{}", test.team(), person.id)).await;
        let me = person.client.get("/v1/me").await.json();
        assert_eq!((&me["team_id"], &me["role"]), (&json!(person.team), &json!("owner")));
        refused(&person.client.get(&format!("/v1/teams/{}", test.team())).await, 404, "not_found");
        // Her own team is the last one that she has: leaving it would leave nobody.
        refused(&person.client.post(&format!("/v1/teams/{}/leave", person.team), json!({})).await, 409, "conflict");
    }
}

#[tokio::test]
async fn two_owners_who_remove_each_other_at_once_leave_one() {
    for database in databases().await {
        let test = app(database).await;
        let (first, second) = (test.first().await, test.colleague("Flo", Role::Owner).await);
        let path = |user: &atoll_model::UserId| format!("/v1/teams/{}/members/{user}", test.team());
        let (left, right) = (path(&second.id), path(&test.admin.user_id));
        // The first admin is a platform admin too, whose word counts without a membership: taken away for this.
        on!(write & test.app.db, |c| sqlx::query("UPDATE users SET is_admin = FALSE").execute(c).await.map(|_| ()))
            .unwrap();
        let (one, two) = tokio::join!(first.delete(&left), second.client.delete(&right));
        let gone = [one.status, two.status].into_iter().filter(|status| *status == StatusCode::NO_CONTENT).count();
        assert_eq!(gone, 1, "{:?} {:?}", one.status, two.status);
        let rows: (i64,) = on!(read & test.app.db, |c| sqlx::query_as(
            "SELECT COUNT(*) FROM team_members WHERE team_id = $1 AND role = 'owner'"
        )
        .bind(test.team().as_str())
        .fetch_one(c)
        .await)
        .unwrap();
        assert_eq!(rows.0, 1);
    }
}

#[tokio::test]
async fn is_byoc_is_what_the_database_says_now() {
    for database in databases().await {
        let test = app(database).await;
        let (owner, member) = (test.first().await, test.colleague("Gus", Role::Member).await);
        let byoc = format!("/v1/admin/teams/{}/byoc", test.team());
        let flag = async || {
            let teams = member.client.get("/v1/teams").await.json();
            let teams = teams["items"].as_array().unwrap().clone();
            teams.iter().find(|team| team["id"] == json!(test.team())).unwrap()["is_byoc"].clone()
        };
        assert_eq!(flag().await, json!(false));
        owner.put(&byoc, json!({ "enabled": true })).await;
        assert_eq!(flag().await, json!(true));
        owner.put(&byoc, json!({ "enabled": false })).await;
        assert_eq!(flag().await, json!(false));
    }
}

#[tokio::test]
async fn new_sandboxes_may_reach_what_their_team_says_unless_they_say_it_themselves() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let owner = test.first().await;
        let path = format!("/v1/teams/{}/network", test.team());
        let open = json!({ "internet": true, "allow_out": [], "deny_out": [] });
        assert_eq!(owner.get(&path).await.json(), open);
        let denied = |sandbox: &Value| sandbox["network"]["deny_out"].as_array().map_or(0, Vec::len);
        let plain = test.client.post("/v1/sandboxes", json!({})).await.json();
        assert_eq!(denied(&plain), 0);

        let closed = json!({ "internet": true, "allow_out": ["*.example.test"], "deny_out": ["0.0.0.0/0"] });
        assert_eq!(owner.put(&path, closed.clone()).await.json(), closed);
        assert_eq!(owner.get(&path).await.json(), closed);
        // From the next request on, also for a key that was seen before.
        let made = test.client.post("/v1/sandboxes", json!({})).await.json();
        assert_eq!(made["network"], json!({ "allow_out": ["*.example.test"], "deny_out": ["0.0.0.0/0"] }));
        for own in [json!({ "internet": true }), json!({ "network": {} })] {
            let made = test.client.post("/v1/sandboxes", own).await.json();
            assert_eq!(denied(&made), 0, "{made}");
        }
        let lives_on = test.client.get(&format!("/v1/sandboxes/{}", plain["id"].as_str().unwrap())).await.json();
        assert_eq!(denied(&lives_on), 0);

        let wrong = owner.put(&path, json!({ "deny_out": ["no rule"] })).await;
        refused(&wrong, 400, "invalid_request");
        assert_eq!(owner.put(&path, json!({})).await.json(), open);
        let made = test.client.post("/v1/sandboxes", json!({})).await.json();
        assert_eq!(denied(&made), 0);
        let changes = audited(&test, "team.network").await;
        // In no order: the test's clock stands still.
        let after = |wanted: &Value| changes.iter().filter(|it| it["after"]["network"]["deny_out"] == *wanted).count();
        assert_eq!((changes.len(), after(&json!(["0.0.0.0/0"])), after(&Value::Null)), (2, 1, 1), "{changes:?}");
    }
}
