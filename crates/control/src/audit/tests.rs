//! What the audit trail promises.

use std::collections::BTreeSet;

use atoll_model::TeamId;
use atoll_model::api::auth::Role;
use serde_json::{Value, json};

use super::store::{Filter, Outcome, STRETCH, query};
use super::*;
use crate::config::SignupMode;
use crate::db::testing::{databases, sqlite};
use crate::testing::{START, TestApp, app, app_with};

async fn write(db: &Db, team: &TeamId, action: &'static str, count: i64) {
    let (actor, origin) = (Actor::System, Origin::default());
    let mut tx = db.begin().await.unwrap();
    for index in 0..count {
        let entry = Entry {
            team: Some(team),
            actor: &actor,
            origin: &origin,
            action,
            target_kind: "thing",
            target_id: Some("thing-1"),
            result: "ok",
            details: json!({}),
        };
        // Several in one millisecond: a page must not lose or repeat them.
        record(&mut tx, Millis(START.0 + 1 + index / 3), &entry).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_database_itself_refuses_to_change_an_entry() {
    for test in databases().await {
        write(&test.db, &TeamId::new(), "thing.make", 1).await;
        for sql in ["UPDATE audit_logs SET result = 'x'", "DELETE FROM audit_logs"] {
            let refused = on!(write & test.db, |c| sqlx::query(sql).execute(c).await.map(|_| ()));
            assert!(refused.unwrap_err().to_string().contains("append-only"), "{sql}");
        }
        if let Db::Postgres(pool) = &test.db {
            assert!(sqlx::query("TRUNCATE audit_logs").execute(pool).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_change_that_is_rolled_back_leaves_no_entry_and_one_that_is_kept_says_everything() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await.with("user-agent", "curl/8");
        let path = format!("/v1/teams/{}", test.team());
        owner.patch(&path, json!({ "name": "New", "slug": "not a slug" })).await;
        owner.patch(&path, json!({ "name": "New" })).await;
        let page = owner.get("/v1/audit-logs?action=team.update").await.json();
        let [entry] = &page["items"].as_array().unwrap()[..] else { panic!("{page}") };
        assert_eq!((&entry["actor_kind"], &entry["actor_name"]), (&json!("user"), &json!("admin@example.test")));
        assert_eq!((&entry["address"], &entry["user_agent"]), (&json!("192.0.2.1"), &json!("curl/8")));
        assert_eq!((&entry["resource_kind"], &entry["resource_id"]), (&json!("team"), &json!(test.team())));
        assert_eq!((&entry["before"]["name"], &entry["after"]["name"]), (&json!("Default"), &json!("New")));
        assert!(entry["request_id"].as_str().unwrap().starts_with("req-"));
    }
}

#[tokio::test]
async fn pages_show_every_entry_once_newest_first_whatever_is_asked_for() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        write(&test.app.db, test.team(), "thing.make", 20).await;
        write(&test.app.db, test.team(), "thing.break", 5).await;
        for (filter, expected) in [
            ("action=thing.make", 20),
            ("action=thing.break&resource=thing-1", 5),
            ("resource_kind=thing&result=ok&actor_kind=system", 25),
            ("resource=thing-1&until=2020-01-01T00:00:00Z", 0),
            ("resource=thing-1&since=2020-01-01T00:00:00Z", 25),
            ("resource=thing-2", 0),
        ] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = owner.get(&format!("/v1/audit-logs?limit=3&{filter}{cursor}")).await.json();
                let items = page["items"].as_array().unwrap();
                seen.extend(items.iter().map(|item| (item["at"].clone(), item["id"].clone())));
                let Some(next) = page["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            let mut sorted = seen.clone();
            sorted.sort_by_key(|(at, id)| std::cmp::Reverse((at.to_string(), id.to_string())));
            sorted.dedup();
            assert_eq!((seen.len(), &seen), (expected, &sorted), "{filter}");
        }
    }
}

#[tokio::test]
async fn a_search_finds_parts_of_names_and_ids_and_what_failed() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let ann = test.colleague("Ann", Role::Admin).await;
        ann.client.post("/v1/api-keys", json!({ "name": "deploy-50%" })).await.expect(201);
        test.client.anonymous().post("/v1/auth/login", json!({ "email": ann.email, "password": "wrong" })).await;
        for (search, actions) in [
            ("q=ann@exam", vec!["api_key.create"]),
            ("q=ANN", vec!["api_key.create"]),
            ("q=key.cre&resource_kind=api_key&actor_kind=user", vec!["api_key.create"]),
            ("q=192.0.2.1&actor_kind=user", vec!["api_key.create"]),
            ("q=%25", vec![]),
            ("q=nothing-like-it", vec![]),
        ] {
            let page = owner.get(&format!("/v1/audit-logs?{search}")).await.expect(200).json();
            let found: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["action"].clone()).collect();
            assert_eq!(
                (found, &page["next_cursor"]),
                (actions.iter().map(|&a| json!(a)).collect(), &Value::Null),
                "{search}"
            );
        }
        for result in ["failed", "unauthorized"] {
            let found = owner.get(&format!("/v1/admin/audit-logs?result={result}")).await.expect(200).json();
            let [refused] = &found["items"].as_array().unwrap()[..] else { panic!("{result}: {found}") };
            assert_eq!((&refused["action"], &refused["result"]), (&json!("user.login"), &json!("unauthorized")));
            assert_eq!(refused["resource_id"], ann.id.as_str());
        }
        let fine = owner.get("/v1/admin/audit-logs?result=ok").await.expect(200).json();
        assert!(!fine["items"].as_array().unwrap().is_empty());
        assert!(fine["items"].as_array().unwrap().iter().all(|item| item["result"] == "ok"), "{fine}");
        assert_eq!(owner.get("/v1/audit-logs?q=").await.expect(400).field(), "q");
    }
}

/// The entries of an action in all teams and none, oldest first.
async fn entries(test: &TestApp, action: &str) -> Vec<Value> {
    let page = test.first().await.get(&format!("/v1/admin/audit-logs?action={action}")).await.expect(200).json();
    page["items"].as_array().unwrap().iter().rev().cloned().collect()
}

#[tokio::test]
async fn refusals_are_written_down_with_whom_they_were_about_as_often_as_the_limits_let_through() {
    for database in databases().await {
        let test = app(database).await;
        let (nobody, owner) = (test.client.anonymous(), test.first().await);
        let sign_in = |email: &str, password: &str| json!({ "email": email, "password": password });
        for _ in 0..15 {
            nobody.post("/v1/auth/login", sign_in("admin@example.test", "wrong")).await;
        }
        nobody.post("/v1/auth/login", sign_in("my secret password", "wrong")).await.expect(401);
        let refused = entries(&test, "user.login").await;
        assert_eq!(refused.len(), 10 + 1, "{refused:#?}");
        // All in one moment: their order says nothing.
        let by = |reason: &str| refused.iter().find(|entry| entry["details"]["reason"] == reason).unwrap();
        let (known, unknown) = (by("wrong_password"), by("no_account"));
        assert_eq!((&known["resource_id"], &known["team_id"]), (&json!(test.admin.user_id), &Value::Null));
        assert_eq!(
            (&known["details"], &known["address"]),
            (&json!({ "reason": "wrong_password" }), &json!("192.0.2.1"))
        );
        assert_eq!((&unknown["resource_id"], &unknown["details"]), (&Value::Null, &json!({ "reason": "no_account" })));
        assert!(
            !refused.iter().any(|entry| entry.to_string().contains("secret password")),
            "what was typed is not kept"
        );

        let change = json!({ "current_password": "not this one", "new_password": "a new password" });
        owner.post("/v1/me/password", change).await.expect(400);
        let [change] = &entries(&test, "user.password_change").await[..] else { panic!("one entry") };
        assert_eq!((&change["result"], &change["actor_id"]), (&json!("invalid_request"), &json!(test.admin.user_id)));

        let setup = json!({ "token": "guessed", "email": "a@example.test", "password": "long enough" });
        let mut last = 0;
        for _ in 0..25 {
            last = nobody.post("/v1/auth/setup", setup.clone()).await.status.as_u16();
        }
        assert_eq!(last, 429);
        let refused = entries(&test, "installation.setup").await;
        assert_eq!(refused.len(), 20);
        assert!(refused.iter().all(|entry| entry["result"] == "unauthorized"));
    }
}

#[tokio::test]
async fn the_first_admin_their_team_and_every_new_team_are_in_the_trail() {
    for database in databases().await {
        let test = app_with(database, |config| config.signup = SignupMode::Open).await;
        let body = json!({ "email": "ada@example.test", "password": "long enough", "name": "Ada" });
        let made = test.client.anonymous().post("/v1/auth/signup", body).await.expect(201).json();
        let admin = &entries(&test, "user.create").await[0];
        assert_eq!((&admin["actor_kind"], &admin["resource_id"]), (&json!("system"), &json!(test.admin.user_id)));
        assert_eq!(admin["after"], json!({ "email": "admin@example.test", "name": "Admin", "is_admin": true }));
        let teams = entries(&test, "team.create").await;
        let seen: BTreeSet<_> =
            teams.iter().map(|team| (team["resource_id"].to_string(), team["after"]["owner"].to_string())).collect();
        let first = (json!(test.admin.team_id).to_string(), json!(test.admin.user_id).to_string());
        assert_eq!(seen, BTreeSet::from([first, (made["team_id"].to_string(), made["user_id"].to_string())]));
        crate::signing::rotate(&test.app.db, crate::signing::USERS, std::time::Duration::from_secs(3600), START)
            .await
            .unwrap();
        let [rotated] = &entries(&test, "signing_key.rotate").await[..] else { panic!("one entry") };
        assert_eq!((&rotated["actor_kind"], &rotated["details"]["purpose"]), (&json!("system"), &json!("user_jwt")));
    }
}

#[tokio::test]
async fn what_goes_away_or_changes_is_in_the_trail_as_it_was_and_no_address_with_its_token() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let owner = test.first().await;
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();

        let team = format!("/v1/teams/{}/invitations", test.team());
        let sent =
            owner.post(&team, json!({ "email": "guest@example.test", "role": "admin" })).await.expect(201).json();
        owner.delete(&format!("{team}/{}", id(&sent))).await.expect(204);
        let before = &entries(&test, "invitation.delete").await[0]["before"];
        assert_eq!(*before, json!({ "email": "guest@example.test", "role": "admin" }));

        let key = owner.post("/v1/api-keys", json!({ "name": "old", "scope": "read" })).await.expect(201).json();
        owner.patch(&format!("/e2b/api-keys/{}", id(&key)), json!({ "name": "new" })).await.expect(200);
        owner.delete(&format!("/v1/api-keys/{}", id(&key))).await.expect(204);
        let renamed = &entries(&test, "api_key.rename").await[0];
        assert_eq!((&renamed["before"]["name"], &renamed["after"]["name"]), (&json!("old"), &json!("new")));
        let before = &entries(&test, "api_key.delete").await[0]["before"];
        assert_eq!((&before["name"], &before["scope"]), (&json!("new"), &json!("read")));
        assert_eq!(before["created_by"], json!(test.admin.user_id));

        let sessions = owner.get("/v1/sessions").await.json();
        let other = sessions["items"].as_array().unwrap().iter().find(|session| session["current"] == false).unwrap();
        owner.delete(&format!("/v1/sessions/{}", id(other))).await.expect(204);
        let before = &entries(&test, "session.revoke").await[0]["before"];
        assert_eq!((&before["kind"], &before["created_at"]), (&json!("token"), &other["created_at"]));

        let hook = json!({ "url": "https://hooks.example:8443/services/T0/secret?key=secret" });
        let hook = owner.post("/v1/webhooks", hook).await.expect(201).json();
        let path = format!("/v1/webhooks/{}", id(&hook));
        owner.patch(&path, json!({ "url": "https://hooks.example:8443/services/T1/secret" })).await.expect(200);
        owner.delete(&path).await.expect(204);
        for (action, member) in [("webhook.create", "after"), ("webhook.update", "after"), ("webhook.delete", "before")]
        {
            let entry = &entries(&test, action).await[0];
            assert_eq!(entry[member]["url"], "https://hooks.example:8443/", "{entry}");
            assert!(!entry.to_string().contains("secret"), "{entry}");
        }
        assert_eq!(entries(&test, "webhook.update").await[0]["details"]["url_changed"], true);

        let made = test.client.post("/e2b/sandboxes", json!({ "templateID": "base", "timeout": 60 })).await.expect(201);
        let sandbox = format!("/e2b/sandboxes/{}", made.json()["sandboxID"].as_str().unwrap());
        test.client.post(&format!("{sandbox}/timeout"), json!({ "timeout": 600 })).await.expect(204);
        test.client.post(&format!("{sandbox}/refreshes"), json!({ "duration": 5 })).await.expect(204);
        test.client.post(&format!("{sandbox}/connect"), json!({ "timeout": 900 })).await.expect(200);
        let mut ends = entries(&test, "sandbox.lifetime").await;
        ends.sort_by_key(|entry| entry["after"]["ends_at"].to_string());
        let [longer, longest] = &ends[..] else { panic!("what changes nothing leaves no entry: {ends:#?}") };
        assert_eq!((&longer["actor_kind"], &longer["after"]), (&json!("api_key"), &longest["before"]));
        assert_ne!(longer["before"], longer["after"]);
        let private = test.client.post("/v1/sandboxes", json!({})).await.expect(201).json();
        let links = format!("/v1/sandboxes/{}/links", id(&private));
        let link = test.client.post(&links, json!({ "port": 8080 })).await.expect(200).json();
        let [entry] = &entries(&test, "sandbox.link").await[..] else { panic!("one entry") };
        assert_eq!(entry["after"], json!({ "port": 8080, "expires_at": link["expires_at"] }));
    }
}

#[tokio::test]
async fn a_search_through_a_long_trail_goes_on_page_by_page_and_misses_nothing() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        // The rare ones are the oldest: two whole stretches have none of them.
        write(&test.app.db, test.team(), "needle.in", 3).await;
        write(&test.app.db, test.team(), "hay.stack", 2 * STRETCH).await;
        let (mut found, mut pages, mut cursor) = (0, 0, String::new());
        loop {
            let page = owner.get(&format!("/v1/audit-logs?q=needle{cursor}")).await.expect(200).json();
            found += page["items"].as_array().unwrap().len();
            pages += 1;
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((found, pages), (3, 3));
    }
}

#[tokio::test]
async fn members_see_their_teams_entries_and_admins_all() {
    for database in databases().await {
        let test = app(database).await;
        let (admin, member) = (test.first().await, test.colleague("Mia", Role::Member).await);
        let other = TeamId::new();
        write(&test.app.db, &other, "thing.make", 2).await;
        write(&test.app.db, test.team(), "thing.make", 3).await;
        let count = |page: Value| page["items"].as_array().unwrap().len();
        assert_eq!(count(member.client.get("/v1/audit-logs?action=thing.make").await.json()), 3);
        assert_eq!(count(admin.get("/v1/admin/audit-logs?action=thing.make").await.json()), 5);
        let one = format!("/v1/admin/audit-logs?action=thing.make&team_id={other}");
        assert_eq!(count(admin.get(&one).await.json()), 2);
        assert_eq!(member.client.get("/v1/admin/audit-logs").await.status, 403);
    }
}

#[tokio::test]
async fn a_page_is_found_by_an_index_whatever_is_asked_for() {
    let test = sqlite().await;
    let team = Some(TeamId::new());
    let filters = [
        Filter::default(),
        Filter { team: team.clone(), ..Filter::default() },
        Filter { team: team.clone(), action: Some("a".into()), ..Filter::default() },
        Filter { team: team.clone(), actor: Some("a".into()), ..Filter::default() },
        Filter { team, resource: Some("a".into()), ..Filter::default() },
        Filter { action: Some("a".into()), ..Filter::default() },
        Filter { result: Some(Outcome::Failed), ..Filter::default() },
        Filter { team: Some(TeamId::new()), result: Some(Outcome::Failed), ..Filter::default() },
        Filter { resource: Some("a".into()), since: Some(Millis(1)), until: Some(Millis(9)), ..Filter::default() },
    ];
    for filter in filters {
        for before in [None, Some((Millis(5), "log-x"))] {
            let plan = query(&filter, before, None, 100).plan(&test.db).await;
            let of_entries: Vec<_> = plan.iter().filter(|step| step.contains(" a ") || step.ends_with(" a")).collect();
            assert!(of_entries.iter().all(|step| step.contains("USING INDEX")), "{filter:?}: {plan:?}");
            assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{filter:?}: {plan:?}");
        }
    }
}
