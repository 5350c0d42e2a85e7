//! What keys promise.

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
            assert_eq!(authenticate(&test.db, &form, now).await.unwrap().unwrap().team_id.0, team, "{form}");
        }
        assert!(authenticate(&test.db, &key.replace("atl_", "atl-"), now).await.unwrap().is_none());
        let (kept,): (String,) =
            crate::db::on!(read & test.db, |c| sqlx::query_as("SELECT key_hash FROM api_keys").fetch_one(c).await)
                .unwrap();
        assert_eq!(kept, hex::encode(Sha256::digest(key)));
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
