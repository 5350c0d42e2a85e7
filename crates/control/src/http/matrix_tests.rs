//! Who may call what: every route of the router with every kind of caller. A route without a row here fails the test,
//! and so does a row without a route. To add a route: add its row to [`matrix_rows`](super::matrix_rows).

use std::collections::BTreeSet;

use atoll_model::api::auth::Role;
use atoll_model::api::hosts::{HOST_TOKEN_HEADER, HostCredentials};
use axum::body::Body;
use axum::http::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use super::edge::is_of_a_host;
use super::matrix_bodies::{self, EMPTY, Names};
use super::matrix_rows::For::{Admin, HookOfT, Host, HostOfT, In, InOwn, Key, KeyOfT, Public, Replica};
use super::matrix_rows::{E2B_ROWS, For, REGISTRY_ROWS, ROWS};
use crate::accounts::token::Subject;
use crate::db::on;
use crate::db::testing::{TestDb, databases, sqlite};
use crate::hosts::tests::Agent;
use crate::testing::{Client, Person, TestApp, app};

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

#[test]
fn requests_of_hosts_have_places_of_their_own_and_no_others_have() {
    // Who asks is said in the body.
    const FIRST: [&str; 2] = ["post /v1/hosts/register", "post /v1/hosts/auth/refresh"];
    for (route, access) in ROWS.iter().chain(E2B_ROWS).chain(REGISTRY_ROWS) {
        let (_, path) = route.split_once(' ').unwrap();
        let of_a_host = matches!(access, Host | Replica) || FIRST.contains(route);
        assert_eq!(is_of_a_host(path), of_a_host, "{route}");
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
