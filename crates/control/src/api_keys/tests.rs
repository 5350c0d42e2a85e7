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
        let new = NewKey { team: &team, name: "ci", created_by: Some(&user) };
        let made = insert(&mut tx, &new, &Actor::System, &Origin::default(), now).await.unwrap();
        tx.commit().await.unwrap();
        let key = made.secret.expose_secret();
        assert!(is_key(key) && key.starts_with(&made.prefix));
        assert_eq!(authenticate(&test.db, key).await.unwrap().unwrap().team_id.0, team);
        assert!(authenticate(&test.db, &key.replace("atl_", "atl-")).await.unwrap().is_none());
        let (kept,): (String,) =
            crate::db::on!(read & test.db, |c| sqlx::query_as("SELECT key_hash FROM api_keys").fetch_one(c).await)
                .unwrap();
        assert_eq!(kept, hex::encode(Sha256::digest(key)));
    }
}

proptest! {
    #[test]
    fn only_the_exact_form_is_a_key(text in "(atl_)?[0-9a-fA-F]{0,40}") {
        let rest = text.strip_prefix("atl_");
        let exact = rest.is_some_and(|rest| rest.len() == 32 && !rest.bytes().any(|byte| byte.is_ascii_uppercase()));
        prop_assert_eq!(is_key(&text), exact);
    }
}
