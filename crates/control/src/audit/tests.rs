//! What the audit trail promises.

use atoll_model::TeamId;
use atoll_model::api::auth::Role;
use serde_json::{Value, json};

use super::store::{Filter, Outcome, STRETCH, query};
use super::*;
use crate::db::testing::{databases, sqlite};
use crate::testing::{START, app};

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
        let failed = owner.get("/v1/admin/audit-logs?result=failed").await.expect(200).json();
        assert!(failed["items"].as_array().unwrap().iter().all(|item| item["result"] != "ok"), "{failed}");
        assert_eq!(owner.get("/v1/audit-logs?q=").await.expect(400).field(), "q");
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
