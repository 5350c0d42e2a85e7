//! People for tests: accounts that are signed in without anybody hashing a password.

use atoll_model::api::auth::{Role, SessionKind};
use atoll_model::{SessionId, TeamId, UserId};
use secrecy::ExposeSecret;

use super::{Client, TestApp};
use crate::accounts::session_store::{self, NewSession};
use crate::accounts::store::insert_team;
use crate::accounts::token::Subject;
use crate::db::on;

/// Somebody who is signed in.
pub struct Person {
    pub id: UserId,
    /// Of their own; the session is in it.
    pub team: TeamId,
    pub email: String,
    pub client: Client,
}

impl TestApp {
    /// A person with a team of their own, signed in there.
    pub async fn person(&self, name: &str) -> Person {
        let (id, team, now) = (UserId::new(), TeamId::new(), self.clock.now());
        let email = format!("{}@example.test", name.to_lowercase());
        let mut tx = self.app.db.begin().await.unwrap();
        on!(tx &mut tx, |c| sqlx::query(
            "INSERT INTO users (id, email, name, is_admin, is_active, created_at, updated_at)
             VALUES ($1, $2, $3, FALSE, TRUE, $4, $4)"
        )
        .bind(id.as_str())
        .bind(&email)
        .bind(name)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        insert_team(&mut tx, &team, &format!("{name}'s"), team.tail(), &id, now).await.unwrap();
        tx.commit().await.unwrap();
        let token = self.session(&id, &team, &email, name).await;
        Person { client: self.client.with_token(&token), id, team, email }
    }

    /// A token of a new session of that person in that team.
    pub async fn session(&self, user: &UserId, team: &TeamId, email: &str, name: &str) -> String {
        let (id, now, ttl) = (SessionId::new(), self.clock.now(), self.app.config.session_ttl);
        let session = NewSession {
            id: &id,
            kind: SessionKind::Token,
            secret_hash: None,
            user,
            team,
            created_at: now,
            expires_at: now + ttl,
            address: None,
            user_agent: None,
        };
        let mut tx = self.app.db.begin().await.unwrap();
        session_store::insert(&mut tx, &session).await.unwrap();
        tx.commit().await.unwrap();
        let subject = Subject { user, session: &id, team, role: "member", email, name, is_admin: false };
        self.app.accounts.tokens().sign(&subject, now, ttl).unwrap().expose_secret().to_owned()
    }

    /// A person in the first admin's team, signed in there with this role.
    pub async fn colleague(&self, name: &str, role: Role) -> Person {
        let person = self.person(name).await;
        let mut tx = self.app.db.begin().await.unwrap();
        crate::teams::store::insert_member(&mut tx, self.team(), &person.id, role, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let token = self.session(&person.id, self.team(), &person.email, name).await;
        Person { client: self.client.with_token(&token), ..person }
    }

    /// The first admin, signed in.
    pub async fn first(&self) -> Client {
        let token = self.session(&self.admin.user_id, self.team(), &self.admin.email, "Admin").await;
        self.client.with_token(&token)
    }
}
