//! Who may call what: every route of the router with every kind of caller. A route without a row here fails the test,
//! and so does a row without a route. To add a route: add its row to [`ROWS`].

use std::collections::BTreeSet;

use atoll_model::api::auth::Role;
use atoll_model::api::hosts::{HOST_TOKEN_HEADER, HostCredentials};
use axum::body::Body;
use axum::http::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use super::matrix_bodies::{self, EMPTY, Names};
use crate::accounts::token::Subject;
use crate::db::on;
use crate::db::testing::{TestDb, databases, sqlite};
use crate::hosts::tests::Agent;
use crate::testing::{Client, Person, TestApp, app};

/// Whom a route is for. `T` is the team whose things the paths name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Anybody; credentials of its own kind, if any, are in the body.
    Public,
    /// Any signed-in person, about what is their own.
    Person,
    /// A signed-in person with at least this role in the team that they work in, about what it has.
    InOwn(Role),
    /// A person or a key, about what their team has.
    Key,
    /// A person or a key, about a thing of T.
    KeyOfT,
    /// A person in T with at least this role, whatever team they work in; or a platform admin.
    In(Role),
    /// A person who works in T with at least this role, about its host; or a platform admin.
    HostOfT(Role),
    /// A person who works in T with at least this role, about its webhook; being a platform admin opens nothing.
    HookOfT(Role),
    /// A platform admin.
    Admin,
    /// The host itself.
    Host,
    /// Another replica of control.
    Replica,
    /// Whoever has a volume's own token, which none of the callers has.
    Volume,
}

use For::{Admin, HookOfT, Host, HostOfT, In, InOwn, Key, KeyOfT, Public, Replica, Volume};

#[rustfmt::skip]
const ROWS: &[(&str, For)] = &[
    ("get /.well-known/jwks.json", Public),
    ("get /.well-known/openid-configuration", Public),
    ("get /healthz", Public),
    ("get /metrics", Public),
    ("get /readyz", Public),
    ("get /v1/admin/audit-logs", Admin),
    ("get /v1/admin/hosts", Admin),
    ("get /v1/admin/sandboxes", Admin),
    ("get /v1/admin/teams", Admin),
    ("put /v1/admin/teams/{id}/byoc", Admin),
    ("get /v1/admin/teams/{id}/quotas", Admin),
    ("put /v1/admin/teams/{id}/quotas", Admin),
    ("get /v1/admin/teams/{id}/usage", Admin),
    ("get /v1/admin/users", Admin),
    ("post /v1/admin/users", Admin),
    ("get /v1/admin/users/{id}", Admin),
    ("put /v1/admin/users/{id}/active", Admin),
    ("put /v1/admin/users/{id}/admin", Admin),
    ("post /v1/admin/users/{id}/password-reset", Admin),
    ("get /v1/api-keys", For::Person),
    ("post /v1/api-keys", For::Person),
    ("delete /v1/api-keys/{id}", For::Person),
    ("get /v1/audit-logs", For::Person),
    ("get /v1/auth/config", Public),
    ("get /v1/auth/device", For::Person),
    ("post /v1/auth/device", Public),
    ("post /v1/auth/device/decision", For::Person),
    ("post /v1/auth/device/token", Public),
    ("post /v1/auth/login", Public),
    ("post /v1/auth/logout", For::Person),
    ("get /v1/auth/oidc/{provider}", Public),
    ("get /v1/auth/oidc/{provider}/callback", Public),
    ("post /v1/auth/password/reset", Public),
    ("post /v1/auth/password/reset/confirm", Public),
    ("post /v1/auth/setup", Public),
    ("post /v1/auth/signup", Public),
    ("post /v1/auth/switch-team", For::Person),
    ("get /v1/events", Key),
    ("get /v1/hosts", For::Person),
    ("post /v1/hosts", Admin),
    ("post /v1/hosts/auth/refresh", Public),
    ("post /v1/hosts/register", Public),
    ("delete /v1/hosts/{id}", HostOfT(Role::Admin)),
    ("get /v1/hosts/{id}", HostOfT(Role::Member)),
    ("patch /v1/hosts/{id}", HostOfT(Role::Admin)),
    ("get /v1/hosts/{id}/delete-preview", HostOfT(Role::Admin)),
    ("get /v1/hosts/{id}/drain", HostOfT(Role::Admin)),
    ("post /v1/hosts/{id}/drain", HostOfT(Role::Admin)),
    ("post /v1/hosts/{id}/heartbeat", Host),
    ("get /v1/hosts/{id}/images/{digest}", Host),
    ("post /v1/hosts/{id}/sandboxes/{sandbox_id}/identity-token", Host),
    ("delete /v1/hosts/{id}/tags", HostOfT(Role::Admin)),
    ("get /v1/hosts/{id}/tags", HostOfT(Role::Member)),
    ("post /v1/hosts/{id}/tags", HostOfT(Role::Admin)),
    ("post /v1/hosts/{id}/token", HostOfT(Role::Admin)),
    ("get /v1/hosts/{id}/tunnel", Host),
    ("get /v1/hosts/{id}/tunnel/relay", Replica),
    ("post /v1/hosts/{id}/undrain", HostOfT(Role::Admin)),
    ("get /v1/invitations/{token}", Public),
    ("post /v1/invitations/{token}/accept", Public),
    ("get /v1/me", For::Person),
    ("patch /v1/me", For::Person),
    ("post /v1/me/password", For::Person),
    ("get /v1/sandboxes", Key),
    ("post /v1/sandboxes", Key),
    ("delete /v1/sandboxes/{id}", KeyOfT),
    ("get /v1/sandboxes/{id}", KeyOfT),
    ("get /v1/sandboxes/{id}/events", KeyOfT),
    ("post /v1/sandboxes/{id}/exec", KeyOfT),
    ("get /v1/sandboxes/{id}/exec/stream", KeyOfT),
    ("post /v1/sandboxes/{id}/files/list", KeyOfT),
    ("post /v1/sandboxes/{id}/files/mkdir", KeyOfT),
    ("post /v1/sandboxes/{id}/files/move", KeyOfT),
    ("post /v1/sandboxes/{id}/files/read", KeyOfT),
    ("post /v1/sandboxes/{id}/files/remove", KeyOfT),
    ("get /v1/sandboxes/{id}/files/stream/read", KeyOfT),
    ("post /v1/sandboxes/{id}/files/stream/read", KeyOfT),
    ("post /v1/sandboxes/{id}/files/stream/write", KeyOfT),
    ("get /v1/sandboxes/{id}/files/watch", KeyOfT),
    ("post /v1/sandboxes/{id}/files/write", KeyOfT),
    ("post /v1/sandboxes/{id}/fork", KeyOfT),
    ("post /v1/sandboxes/{id}/links", KeyOfT),
    ("get /v1/sandboxes/{id}/logs", KeyOfT),
    ("get /v1/sandboxes/{id}/metrics", KeyOfT),
    ("put /v1/sandboxes/{id}/network", KeyOfT),
    ("post /v1/sandboxes/{id}/pause", KeyOfT),
    ("post /v1/sandboxes/{id}/ping", KeyOfT),
    ("get /v1/sandboxes/{id}/processes", KeyOfT),
    ("delete /v1/sandboxes/{id}/processes/{process}", KeyOfT),
    ("get /v1/sandboxes/{id}/pty", KeyOfT),
    ("post /v1/sandboxes/{id}/resume", KeyOfT),
    ("post /v1/sandboxes/{id}/timeout", KeyOfT),
    ("get /v1/secrets", Key),
    ("post /v1/secrets", Key),
    ("delete /v1/secrets/{name}", Key),
    ("delete /v1/sessions", For::Person),
    ("get /v1/sessions", For::Person),
    ("delete /v1/sessions/{id}", For::Person),
    ("get /v1/snapshots", Key),
    ("post /v1/snapshots", KeyOfT),
    ("delete /v1/snapshots/{name}", Key),
    ("get /v1/snapshots/{name}", Key),
    ("get /v1/teams", For::Person),
    ("post /v1/teams", For::Person),
    ("delete /v1/teams/{id}", In(Role::Owner)),
    ("get /v1/teams/{id}", In(Role::Member)),
    ("patch /v1/teams/{id}", In(Role::Admin)),
    ("get /v1/teams/{id}/invitations", In(Role::Admin)),
    ("post /v1/teams/{id}/invitations", In(Role::Admin)),
    ("delete /v1/teams/{id}/invitations/{invitation}", In(Role::Admin)),
    ("post /v1/teams/{id}/leave", In(Role::Member)),
    ("get /v1/teams/{id}/network", In(Role::Member)),
    ("put /v1/teams/{id}/network", In(Role::Admin)),
    ("get /v1/teams/{id}/members", In(Role::Member)),
    ("post /v1/teams/{id}/members", In(Role::Admin)),
    ("delete /v1/teams/{id}/members/{user_id}", In(Role::Admin)),
    ("patch /v1/teams/{id}/members/{user_id}", In(Role::Admin)),
    ("get /v1/templates", Key),
    ("post /v1/templates", Key),
    ("get /v1/templates/files/{hash}", Key),
    ("put /v1/templates/files/{hash}", Key),
    ("delete /v1/templates/{name}", Key),
    ("get /v1/templates/{name}", Key),
    ("patch /v1/templates/{name}", Key),
    ("get /v1/templates/{name}/builds", Key),
    ("delete /v1/templates/{name}/builds/{build}", Key),
    ("get /v1/templates/{name}/builds/{build}", Key),
    ("get /v1/templates/{name}/builds/{build}/logs", Key),
    ("get /v1/templates/{name}/tags", Key),
    ("get /v1/usage", Key),
    ("get /v1/usage/activity", Key),
    ("get /v1/volumes", Key),
    ("post /v1/volumes", Key),
    ("delete /v1/volumes/{name}", Key),
    ("get /v1/volumes/{name}", Key),
    ("get /v1/webhooks", For::Person),
    ("post /v1/webhooks", InOwn(Role::Admin)),
    ("delete /v1/webhooks/{id}", HookOfT(Role::Admin)),
    ("get /v1/webhooks/{id}", HookOfT(Role::Member)),
    ("patch /v1/webhooks/{id}", HookOfT(Role::Admin)),
    ("get /v1/webhooks/{id}/deliveries", HookOfT(Role::Member)),
    ("post /v1/webhooks/{id}/secret", HookOfT(Role::Admin)),
    ("post /v1/webhooks/{id}/test", HookOfT(Role::Admin)),
];

/// The routes of E2B's dialect, which is in no OpenAPI of ours.
#[rustfmt::skip]
const E2B_ROWS: &[(&str, For)] = &[
    ("post /e2b/access-tokens", For::Person),
    ("delete /e2b/access-tokens/{id}", For::Person),
    ("get /e2b/api-keys", For::Person),
    ("post /e2b/api-keys", For::Person),
    ("delete /e2b/api-keys/{id}", For::Person),
    ("patch /e2b/api-keys/{id}", For::Person),
    ("get /e2b/default-templates", Key),
    ("get /e2b/health", Public),
    ("get /e2b/sandboxes", Key),
    ("post /e2b/sandboxes", Key),
    ("get /e2b/sandboxes/metrics", Key),
    ("delete /e2b/sandboxes/{id}", KeyOfT),
    ("get /e2b/sandboxes/{id}", KeyOfT),
    ("post /e2b/sandboxes/{id}/connect", KeyOfT),
    ("post /e2b/sandboxes/{id}/fork", KeyOfT),
    ("get /e2b/sandboxes/{id}/logs", KeyOfT),
    ("get /e2b/sandboxes/{id}/metrics", KeyOfT),
    ("put /e2b/sandboxes/{id}/network", KeyOfT),
    ("post /e2b/sandboxes/{id}/pause", KeyOfT),
    ("post /e2b/sandboxes/{id}/refreshes", KeyOfT),
    ("post /e2b/sandboxes/{id}/resume", KeyOfT),
    ("post /e2b/sandboxes/{id}/snapshots", KeyOfT),
    ("post /e2b/sandboxes/{id}/timeout", KeyOfT),
    ("get /e2b/secrets", Key),
    ("post /e2b/secrets", Key),
    ("delete /e2b/secrets/{id}", Key),
    ("get /e2b/secrets/{id}", Key),
    ("post /e2b/secrets/{id}", Key),
    ("get /e2b/snapshots", Key),
    ("get /e2b/teams", For::Person),
    ("get /e2b/teams/{id}/metrics", KeyOfT),
    ("get /e2b/teams/{id}/metrics/max", KeyOfT),
    ("get /e2b/templates", Key),
    ("post /e2b/templates", Key),
    ("get /e2b/templates/aliases/{alias}", Key),
    ("delete /e2b/templates/tags", Key),
    ("post /e2b/templates/tags", Key),
    ("delete /e2b/templates/{id}", Key),
    ("get /e2b/templates/{id}", Key),
    ("patch /e2b/templates/{id}", Key),
    ("post /e2b/templates/{id}", Key),
    ("post /e2b/templates/{id}/builds/{build}", Key),
    ("get /e2b/templates/{id}/builds/{build}/logs", Key),
    ("get /e2b/templates/{id}/builds/{build}/status", Key),
    ("get /e2b/templates/{id}/files/{hash}", Key),
    ("get /e2b/templates/{id}/tags", Key),
    ("get /e2b/templates/{id}/tags/count", Key),
    ("get /e2b/templates/{id}/tags/exists", Key),
    ("get /e2b/templates/{id}/tags/groups", Key),
    ("get /e2b/templates/{id}/tags/{tag}/assignments", Key),
    ("put /e2b/uploads/{ticket}", Public),
    ("get /e2b/v2/sandboxes", Key),
    ("post /e2b/v2/sandboxes", Key),
    ("post /e2b/v2/sandboxes/{id}/connect", KeyOfT),
    ("get /e2b/v2/sandboxes/{id}/logs", KeyOfT),
    ("get /e2b/v2/templates", Key),
    ("post /e2b/v2/templates", Key),
    ("patch /e2b/v2/templates/{id}", Key),
    ("post /e2b/v2/templates/{id}/builds/{build}", Key),
    ("post /e2b/v3/templates", Key),
    ("get /e2b/volumecontent/{id}/dir", Volume),
    ("post /e2b/volumecontent/{id}/dir", Volume),
    ("get /e2b/volumecontent/{id}/file", Volume),
    ("put /e2b/volumecontent/{id}/file", Volume),
    ("delete /e2b/volumecontent/{id}/path", Volume),
    ("get /e2b/volumecontent/{id}/path", Volume),
    ("patch /e2b/volumecontent/{id}/path", Volume),
    ("get /e2b/volumes", Key),
    ("post /e2b/volumes", Key),
    ("delete /e2b/volumes/{id}", Key),
    ("get /e2b/volumes/{id}", Key),
];

/// The routes of the registry, which is in no OpenAPI either.
#[rustfmt::skip]
const REGISTRY_ROWS: &[(&str, For)] = &[
    ("get /v2", Key),
    ("get /v2/", Key),
    ("delete /v2/{*path}", Key),
    ("get /v2/{*path}", Key),
    ("head /v2/{*path}", Key),
    ("patch /v2/{*path}", Key),
    ("post /v2/{*path}", Key),
    ("put /v2/{*path}", Key),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    BadToken,
    Expired,
    Stranger,
    DemotedAdmin,
    Member,
    TeamAdmin,
    Owner,
    PlatformAdmin,
    KeyOfT,
    KeyOfAnother,
    KeyOfDeleted,
    Host,
}

const CALLERS: [Caller; 13] = [
    Caller::Nobody,
    Caller::BadToken,
    Caller::Expired,
    Caller::Stranger,
    Caller::DemotedAdmin,
    Caller::Member,
    Caller::TeamAdmin,
    Caller::Owner,
    Caller::PlatformAdmin,
    Caller::KeyOfT,
    Caller::KeyOfAnother,
    Caller::KeyOfDeleted,
    Caller::Host,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Let in: what the request then gets is no matter of rights.
    In,
    Unauthorized,
    Forbidden,
    /// Another team's thing is not there.
    NotThere,
}

impl Caller {
    fn role(self) -> Option<Role> {
        match self {
            Self::Member => Some(Role::Member),
            Self::TeamAdmin => Some(Role::Admin),
            Self::Owner => Some(Role::Owner),
            _ => None,
        }
    }

    fn is_person(self) -> bool {
        use Caller::{DemotedAdmin, PlatformAdmin, Stranger};
        self.role().is_some() || matches!(self, Stranger | DemotedAdmin | PlatformAdmin)
    }

    fn is_key(self) -> bool {
        matches!(self, Self::KeyOfT | Self::KeyOfAnother)
    }
}

fn verdict(access: For, caller: Caller) -> Verdict {
    use Verdict::{Forbidden, NotThere, Unauthorized};
    let person = caller.is_person();
    match access {
        Public => Verdict::In,
        For::Person if person => Verdict::In,
        Key if person || caller.is_key() => Verdict::In,
        KeyOfT if caller.role().is_some() || caller == Caller::KeyOfT => Verdict::In,
        KeyOfT if person || caller.is_key() => NotThere,
        In(_) | HostOfT(_) | Admin if caller == Caller::PlatformAdmin => Verdict::In,
        In(needed) | HostOfT(needed) if person => match caller.role() {
            Some(role) if role >= needed => Verdict::In,
            Some(_) => Forbidden,
            None => NotThere,
        },
        // Whoever is in no other team is the owner of one of their own.
        InOwn(needed) if person => match caller.role() {
            Some(role) if role < needed => Forbidden,
            _ => Verdict::In,
        },
        HookOfT(needed) if person => match caller.role() {
            Some(role) if role >= needed => Verdict::In,
            Some(_) => Forbidden,
            None => NotThere,
        },
        Admin if person => Forbidden,
        Host if caller == Caller::Host => Verdict::In,
        _ => Unauthorized,
    }
}

/// T with its people and things, and all who call.
struct World {
    test: TestApp,
    host: String,
    hook: std::sync::Mutex<Option<String>>,
    host_client: Client,
    /// (person, their role in T)
    people: Vec<(Person, Role)>,
    stranger: Person,
    demoted: Client,
    victim: Person,
    addable: Person,
    platform: Client,
    another: Client,
    deleted: Client,
    expired: Client,
}

impl World {
    async fn new(database: TestDb) -> Self {
        let test = app(database).await;
        test.fleet.add_host();
        test.run_feeds();
        let first = test.first().await;
        first.put(&format!("/v1/admin/teams/{}/byoc", test.team()), json!({ "enabled": true })).await;
        let made = first.post("/v1/hosts", json!({ "type": "byoc" })).await.json();
        let mut agent = Agent::new();
        let registration = agent.registration(made["registration_token"].as_str().unwrap());
        let registered =
            test.client.anonymous().post("/v1/hosts/register", serde_json::to_value(registration).unwrap()).await;
        let credentials: HostCredentials = serde_json::from_slice(&registered.body).unwrap();
        agent.credentials = Some(credentials.clone());
        let host_client = test.client.anonymous().with(HOST_TOKEN_HEADER, &credentials.access_token);

        let mut people = Vec::new();
        for (name, role) in [("Mem", Role::Member), ("Adm", Role::Admin), ("Own", Role::Owner)] {
            people.push((test.colleague(name, role).await, role));
        }
        let (stranger, demoted, platform) =
            (test.person("Str").await, test.person("Dem").await, test.person("Pla").await);
        for person in [&demoted, &platform] {
            first.put(&format!("/v1/admin/users/{}/admin", person.id), json!({ "enabled": true })).await;
        }
        let (now, ttl) = (test.clock.now(), test.app.config.session_ttl);
        first.put(&format!("/v1/admin/users/{}/admin", demoted.id), json!({ "enabled": false })).await;
        let gone = test.person("Gon").await;
        let key = gone.client.post("/v1/api-keys", json!({ "name": "k" })).await.json();
        assert_eq!(gone.client.delete(&format!("/v1/teams/{}", gone.team)).await.status, 204);
        let long_ago = now - ttl * 2;
        let session = atoll_model::SessionId::new();
        let old = Subject {
            user: &stranger.id,
            session: &session,
            team: &stranger.team,
            role: "owner",
            email: &stranger.email,
            name: "Str",
            is_admin: false,
        };
        let expired = test.app.accounts.tokens().sign(&old, long_ago, ttl).unwrap();
        Self {
            host: made["host"]["id"].as_str().unwrap().to_owned(),
            host_client,
            hook: std::sync::Mutex::default(),
            people,
            demoted: demoted.client,
            victim: test.colleague("Vic", Role::Member).await,
            addable: test.person("Add").await,
            platform: platform.client,
            another: test.another_team().await,
            deleted: test.client.with("x-api-key", key["key"].as_str().unwrap()),
            expired: test.client.with_token(expired.expose_secret()),
            stranger,
            test,
        }
    }

    fn client(&self, caller: Caller) -> Client {
        let of = |role: Role| self.people.iter().find(|(_, has)| *has == role).map(|(person, _)| person.client.clone());
        match caller {
            Caller::Nobody => self.test.client.anonymous(),
            Caller::BadToken => self.test.client.with_token("e30.e30.e30"),
            Caller::Expired => self.expired.clone(),
            Caller::Stranger => self.stranger.client.clone(),
            Caller::DemotedAdmin => self.demoted.clone(),
            Caller::Member => of(Role::Member).unwrap(),
            Caller::TeamAdmin => of(Role::Admin).unwrap(),
            Caller::Owner => of(Role::Owner).unwrap(),
            Caller::PlatformAdmin => self.platform.clone(),
            Caller::KeyOfT => self.test.client.clone(),
            Caller::KeyOfAnother => self.another.clone(),
            Caller::KeyOfDeleted => self.deleted.clone(),
            Caller::Host => self.host_client.clone(),
        }
    }

    /// What the request of this caller names besides its path.
    async fn names(&self, route: &str, caller: Caller) -> Names {
        let mut names = Names {
            team: self.test.team().to_string(),
            sandbox: String::new(),
            code: String::new(),
            email: self.addable.email.clone(),
        };
        if caller.is_person() {
            names.team = self.client(caller).get("/v1/me").await.json()["team_id"].as_str().unwrap().to_owned();
        }
        if route.contains("/auth/device") {
            let begun = self.test.client.anonymous().post("/v1/auth/device", json!({})).await.expect(200).json();
            names.code = begun["user_code"].as_str().unwrap().to_owned();
        }
        if route == "post /v1/snapshots" || route == "get /e2b/sandboxes/metrics" {
            let made = self.test.client.post("/v1/sandboxes", json!({})).await.expect(201).json();
            names.sandbox = made["id"].as_str().unwrap().to_owned();
        }
        names
    }

    /// A path with things of T in it, made anew where a request may have used them up.
    async fn concrete(&self, method: &Method, path: &str) -> String {
        let mut path = path.to_owned();
        if *method == Method::DELETE && path == "/v1/hosts/{id}" {
            let made = self.client(Caller::Owner).post("/v1/hosts", json!({ "type": "byoc" })).await.json();
            path = path.replace("{id}", made["host"]["id"].as_str().unwrap());
        }
        if path.contains("/webhooks/{id}") {
            let made = self.client(Caller::Owner).post("/v1/webhooks", json!({ "url": "http://localhost:9/" })).await;
            let gone = self.hook.lock().unwrap().replace(made.json()["id"].as_str().unwrap_or_default().to_owned());
            if let Some(gone) = gone {
                self.client(Caller::Owner).delete(&format!("/v1/webhooks/{gone}")).await;
            }
            path = path.replace("{id}", self.hook.lock().unwrap().as_deref().unwrap_or_default());
        }
        let mut path = path
            .replace("/hosts/{id}", &format!("/hosts/{}", self.host))
            .replace("/teams/{id}", &format!("/teams/{}", self.test.team()))
            .replace("/users/{id}", &format!("/users/{}", self.victim.id))
            .replace("{user_id}", self.victim.id.as_str())
            .replace("/api-keys/{id}", "/api-keys/key-aaaaaaaaaaaaaaaaaaaa")
            .replace("/sessions/{id}", "/sessions/ses-aaaaaaaaaaaaaaaaaaaa")
            .replace("/snapshots/{name}", "/snapshots/none")
            .replace("{sandbox_id}", "sb-aaaaaaaaaaaaaaaaaaaa")
            .replace("{process}", "7")
            .replace("{digest}", &"0".repeat(64))
            .replace("{token}", "none")
            .replace("{provider}", "none")
            .replace("{invitation}", "inv-aaaaaaaaaaaaaaaaaaaa")
            .replace("{build}", "none")
            .replace("{hash}", EMPTY)
            .replace("/templates/{id}", "/templates/none")
            .replace("/volumes/{id}", "/volumes/none")
            .replace("/volumecontent/{id}", "/volumecontent/none")
            .replace("/secrets/{id}", "/secrets/none")
            .replace("{alias}", "none")
            .replace("{tag}", "v1")
            .replace("{ticket}", "none")
            .replace("{name}", "none");
        if path.contains("{*path}") {
            let named = match *method {
                Method::POST => "none/blobs/uploads/".to_owned(),
                Method::PATCH | Method::PUT => format!("none/blobs/uploads/{}", "0".repeat(32)),
                _ => "none/manifests/none".to_owned(),
            };
            path = path.replace("{*path}", &named);
        }
        if path.contains("/sandboxes/{id}") {
            let made = self.test.client.post("/v1/sandboxes", json!({})).await.json();
            path = path.replace("{id}", made["id"].as_str().unwrap());
        }
        path
    }

    /// Puts people back to where they were, and forgets what they have tried.
    async fn restore(&self) {
        let (db, team) = (&self.test.app.db, self.test.team());
        let mut tx = db.begin().await.unwrap();
        for sql in [
            "UPDATE sessions SET revoked_at = NULL",
            "UPDATE users SET is_active = TRUE, password_hash = NULL",
            "DELETE FROM team_members WHERE user_id IN (SELECT id FROM users WHERE email = 'add@example.test')",
            "DELETE FROM rate_limits",
        ] {
            on!(tx &mut tx, |c| sqlx::query(sql).execute(c).await.map(|_| ())).unwrap();
        }
        let victim = [(&self.victim, &Role::Member)];
        for (person, role) in self.people.iter().map(|(person, role)| (person, role)).chain(victim) {
            on!(tx &mut tx, |c| sqlx::query(
                "INSERT INTO team_members (team_id, user_id, role, created_at) VALUES ($1, $2, $3, 0)
                 ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role"
            )
            .bind(team.as_str())
            .bind(person.id.as_str())
            .bind(role.as_str())
            .execute(c)
            .await
            .map(|_| ()))
            .unwrap();
            on!(tx &mut tx, |c| sqlx::query("UPDATE sessions SET team_id = $1 WHERE user_id = $2")
                .bind(team.as_str())
                .bind(person.id.as_str())
                .execute(c)
                .await
                .map(|_| ()))
            .unwrap();
        }
        tx.commit().await.unwrap();
    }
}

/// WebSockets, which are refused for not being one before anything else: a router without a connection can't make one. Their
/// own tests open them.
const SOCKETS: [&str; 5] = [
    "get /v1/hosts/{id}/tunnel",
    "get /v1/hosts/{id}/tunnel/relay",
    "get /v1/sandboxes/{id}/exec/stream",
    "get /v1/sandboxes/{id}/files/watch",
    "get /v1/sandboxes/{id}/pty",
];

/// Routes whose body names a template, which is not there for everybody.
const NAMED_IN_THE_BODY: [&str; 2] = ["post /e2b/templates/tags", "delete /e2b/templates/tags"];

/// Whether an answer to a valid request fits a verdict.
fn fits(verdict: Verdict, route: &str, status: u16) -> bool {
    let is_socket = SOCKETS.contains(&route);
    match verdict {
        Verdict::Unauthorized => status == 401,
        Verdict::Forbidden => status == 403,
        Verdict::NotThere => status == 404 || (is_socket && matches!(status, 400 | 426)),
        Verdict::In if is_socket => !matches!(status, 401 | 403 | 404 | 500),
        // Not every path names a thing that is there for everybody (a session, a key, a path in a sandbox).
        Verdict::In if route.contains('{') || NAMED_IN_THE_BODY.contains(&route) => {
            !matches!(status, 400 | 401 | 403 | 415 | 500)
        }
        Verdict::In => !matches!(status, 400 | 401 | 403 | 404 | 415 | 500),
    }
}

#[tokio::test]
async fn every_route_lets_in_exactly_whom_it_is_for() {
    for database in databases().await {
        let world = World::new(database).await;
        let api = world.test.client.get("/openapi.json").await.json();
        let mut routes = BTreeSet::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            routes.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        let rows: BTreeSet<_> = ROWS.iter().map(|(route, _)| (*route).to_owned()).collect();
        assert_eq!(rows.len(), ROWS.len(), "a route has two rows");
        let missing: Vec<_> = routes.difference(&rows).collect();
        assert!(missing.is_empty(), "routes without a row in the caller matrix: {missing:#?}");
        let gone: Vec<_> = rows.difference(&routes).collect();
        assert!(gone.is_empty(), "rows of the caller matrix without a route: {gone:#?}");

        world.judge(ROWS).await;
    }
}

/// What `router` has between its brackets: other dialects have no document to be asked for their routes.
fn routes_of(source: &str, below: &str) -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for piece in source.split(".route(\"").skip(1) {
        let (path, rest) = piece.split_once('"').unwrap();
        let methods = rest.split('\n').next().unwrap();
        for method in ["get", "head", "post", "put", "patch", "delete"] {
            if methods.contains(&format!(" {method}(")) || methods.contains(&format!(").{method}(")) {
                routes.insert(format!("{method} {below}{path}"));
            }
        }
    }
    routes
}

#[tokio::test]
async fn every_route_of_e2bs_dialect_lets_in_exactly_whom_it_is_for() {
    let rows: BTreeSet<_> = E2B_ROWS.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(
        rows,
        routes_of(include_str!("e2b/mod.rs"), "/e2b"),
        "rows of the caller matrix on the left, routes on the right"
    );
    for database in databases().await {
        World::new(database).await.judge(E2B_ROWS).await;
    }
    // The same by a host name of its own, where no route of ours is in the way.
    World::new(sqlite().await).await.judge_at(Some(("api.localhost", "/e2b")), E2B_ROWS).await;
}

#[tokio::test]
async fn every_route_of_the_registry_lets_in_exactly_whom_it_is_for() {
    let rows: BTreeSet<_> = REGISTRY_ROWS.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(rows, routes_of(include_str!("registry/mod.rs"), ""), "rows of the caller matrix on the left");
    for database in databases().await {
        World::new(database).await.judge(REGISTRY_ROWS).await;
    }
}

impl World {
    /// Sends each route each caller's request.
    async fn judge(&self, rows: &[(&str, For)]) {
        self.judge_at(None, rows).await;
    }

    /// At a host name, where paths don't begin so.
    async fn judge_at(&self, host: Option<(&str, &str)>, rows: &[(&str, For)]) {
        let mut wrong = Vec::new();
        for (route, access) in rows {
            let (method, template) = route.split_once(' ').unwrap();
            let method: Method = method.to_uppercase().parse().unwrap();
            for caller in CALLERS {
                let names = self.names(route, caller).await;
                let path = self.concrete(&method, template).await + &matrix_bodies::query(route, &names);
                let (kind, body) = matrix_bodies::body(route, &names);
                let mut client = self.client(caller).with("content-type", &kind);
                let mut path = path.as_str();
                if let Some((host, prefix)) = host {
                    client = client.with("host", host);
                    path = path.strip_prefix(prefix).unwrap();
                }
                let body = if method == Method::GET { Body::empty() } else { body.into() };
                // Only the head: some answers never end.
                let status = client.head_of(method.clone(), path, body).await.as_u16();
                let verdict = verdict(*access, caller);
                // What is public judges what is in the body; its own tests say how. It never fails, whoever comes (without
                // a host nothing is ready).
                let fits = if *access == Public {
                    status < 500 || *route == "get /readyz"
                } else {
                    fits(verdict, route, status)
                };
                if !fits {
                    wrong.push(format!("{route} for {caller:?}: {status}, not {verdict:?}"));
                }
                if method != Method::GET || template.contains("device") {
                    self.restore().await;
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
