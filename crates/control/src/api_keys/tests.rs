//! What keys promise.

use atoll_model::api::auth::Role;
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::accounts::store::insert_team;
use crate::db::testing::databases;

#[tokio::test]
async fn a_key_opens_its_team_and_is_kept_only_as_a_hash() {
    for test in databases().await {
        let (user, team, now) = (UserId::new(), TeamId::new(), Millis(1));
        let mut tx = test.db.begin().await.unwrap();
        crate::accounts::store::insert_first_user(&mut tx, &user, "a@b.c", "A", "-", now).await.unwrap();
        insert_team(&mut tx, &team, "T", "t", &user, now).await.unwrap();
        let new = NewKey::unlimited(&team, "ci", Some(&user));
        let made = insert(&mut tx, &new, &Actor::System, &Origin::default(), now).await.unwrap();
        tx.commit().await.unwrap();
        let key = made.secret.expose_secret();
        assert!(material(key).is_some() && key.starts_with(&made.prefix));
        for form in [key.to_owned(), e2b_form(&made.secret).unwrap()] {
            let digest = digest(&form).unwrap();
            assert_eq!(by_digest(&test.db, &digest, now).await.unwrap().unwrap().team_id.0, team, "{form}");
        }
        assert_eq!(digest(&key.replace("atl_", "atl-")), None);
        let (kept,): (String,) =
            crate::db::on!(read & test.db, |c| sqlx::query_as("SELECT key_hash FROM api_keys").fetch_one(c).await)
                .unwrap();
        assert_eq!(kept, hex::encode(Sha256::digest(key)));
    }
}

#[tokio::test]
async fn a_key_that_was_in_use_a_moment_ago_opens_nothing_once_it_is_deleted() {
    for database in databases().await {
        let test = crate::testing::app(database).await;
        let owner = test.first().await;
        let made = owner.post("/v1/api-keys", json!({ "name": "gone" })).await.json();
        let user = test.client.with("x-api-key", made["key"].as_str().unwrap());
        for _ in 0..3 {
            assert_eq!(user.get("/v1/sandboxes").await.status, 200);
        }
        owner.delete(&format!("/v1/api-keys/{}", made["id"].as_str().unwrap())).await;
        assert_eq!(user.get("/v1/sandboxes").await.status, 401);
    }
}

proptest! {
    #[test]
    fn only_the_exact_form_is_a_key(text in "(atl_|e2b_)?[0-9a-fA-F]{0,40}") {
        let rest = text.strip_prefix("atl_").or_else(|| text.strip_prefix("e2b_"));
        let exact = rest.is_some_and(|rest| rest.len() == 32 && !rest.bytes().any(|byte| byte.is_ascii_uppercase()));
        prop_assert_eq!(material(&text).is_some(), exact);
    }
}

#[tokio::test]
async fn a_key_does_what_its_scope_says_until_it_expires() {
    for database in databases().await {
        let test = crate::testing::app(database).await;
        test.fleet.add_host();
        let owner = test.first().await;
        let in_an_hour = (test.clock.now() + std::time::Duration::from_secs(3600)).to_utc();
        let ask = json!({ "name": "look", "scope": "read", "expires_at": in_an_hour });
        let made = owner.post("/v1/api-keys", ask).await.json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        assert_eq!((&made["scope"], text("key").replace("atl_", "e2b_")), (&json!("read"), text("e2b_key")));
        let reader = test.client.with("x-api-key", &text("key"));
        let sandbox = test.client.post("/v1/sandboxes", json!({})).await.json();
        assert_eq!(reader.get("/v1/sandboxes").await.json()["items"][0]["id"], sandbox["id"]);
        assert_eq!(reader.post("/v1/sandboxes", json!({})).await.code(), "forbidden");
        let path = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
        assert_eq!(reader.delete(&path).await.code(), "forbidden");
        assert_eq!(test.client.with("x-api-key", &text("e2b_key")).get(&path).await.status, 200);
        test.clock.advance(std::time::Duration::from_secs(3600));
        assert_eq!(reader.get("/v1/sandboxes").await.code(), "unauthorized");
        let past = json!({ "name": "old", "expires_at": in_an_hour });
        assert_eq!(owner.post("/v1/api-keys", past).await.field(), "expires_at");
    }
}

#[tokio::test]
async fn a_key_is_refused_while_its_makers_account_is_switched_off() {
    for database in databases().await {
        let test = crate::testing::app(database).await;
        let (admin, ann) = (test.first().await, test.colleague("Ann", Role::Admin).await);
        let made = ann.client.post("/v1/api-keys", json!({ "name": "hers" })).await.expect(201).json();
        let key = test.client.with("x-api-key", made["key"].as_str().unwrap());
        let switch = format!("/v1/admin/users/{}/active", ann.id);
        // More often than there are replicas: each remembers what it has seen.
        for _ in 0..3 {
            key.get("/v1/sandboxes").await.expect(200);
        }
        admin.put(&switch, json!({ "enabled": false })).await.expect(204);
        for _ in 0..3 {
            assert_eq!(key.get("/v1/sandboxes").await.code(), "unauthorized");
        }
        test.client.get("/v1/sandboxes").await.expect(200);
        admin.put(&switch, json!({ "enabled": true })).await.expect(204);
        for _ in 0..3 {
            key.get("/v1/sandboxes").await.expect(200);
        }
    }
}

#[tokio::test]
async fn members_delete_the_keys_that_they_made_and_admins_all() {
    for database in databases().await {
        let test = crate::testing::app(database).await;
        let people = [
            test.colleague("Mem", Role::Member).await,
            test.colleague("Mia", Role::Member).await,
            test.colleague("Adm", Role::Admin).await,
            test.colleague("Own", Role::Owner).await,
        ];
        let stranger = test.person("Str").await;
        let make = async || {
            let made = people[0].client.post("/v1/api-keys", json!({ "name": "k" })).await.expect(201).json();
            format!("/v1/api-keys/{}", made["id"].as_str().unwrap())
        };
        let key = make().await;
        assert_eq!(people[1].client.delete(&key).await.code(), "forbidden");
        assert_eq!(stranger.client.delete(&key).await.code(), "not_found");
        let listed = people[1].client.get("/v1/api-keys").await.json();
        assert!(listed["items"].as_array().unwrap().iter().any(|item| item["name"] == "k"), "it is still there");
        people[0].client.delete(&key).await.expect(204);
        for person in &people[2..] {
            person.client.delete(&make().await).await.expect(204);
        }
        // A platform admin counts as an owner, whatever their role in the team.
        let key = make().await;
        test.first().await.put(&format!("/v1/admin/users/{}/admin", people[1].id), json!({ "enabled": true })).await;
        people[1].client.delete(&key).await.expect(204);
        let first = test.first().await.get("/v1/api-keys").await.json()["items"][0]["id"].clone();
        let demote = format!("/v1/admin/users/{}/admin", people[1].id);
        test.first().await.put(&demote, json!({ "enabled": false })).await.expect(204);
        let path = format!("/v1/api-keys/{}", first.as_str().unwrap());
        assert_eq!(people[1].client.delete(&path).await.code(), "forbidden", "a demoted one is a member again");
    }
}
