//! What signing in elsewhere promises, with a real OpenID provider (oidc-provider in Node, see `tests/oidc`) and a GitHub
//! that is not one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{Method, Request, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tests::assert_error;
use crate::config::{ControlConfig, SignupMode};
use crate::db::testing::{TestDb, databases};
use crate::outbound;
use crate::sign_in::{GithubSettings, OidcSettings};
use crate::testing::{Answer, Client, TestApp, app, app_with};

/// The real provider, in a process of its own that ends with the test.
struct RealProvider {
    issuer: String,
    process: Child,
}

impl Drop for RealProvider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn provider_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oidc")
}

impl RealProvider {
    fn start() -> Self {
        let dir = provider_dir();
        if !dir.join("node_modules/oidc-provider").exists() {
            let installed = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir).status();
            assert!(installed.expect("npm is installed").success(), "npm ci in {}", dir.display());
        }
        let mut process = Command::new("node")
            .arg("server.mjs")
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is installed");
        let mut issuer = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        while !issuer.starts_with("http://") {
            issuer.clear();
            assert_ne!(lines.read_line(&mut issuer).unwrap(), 0, "the provider starts");
        }
        Self { issuer: issuer.trim().to_owned(), process }
    }

    fn settings(&self) -> OidcSettings {
        OidcSettings {
            name: "The company".to_owned(),
            issuer: self.issuer.clone(),
            client_id: "atoll".to_owned(),
            client_secret: "a-secret-of-the-test".to_owned().into(),
        }
    }

    /// A person signs in at the provider. Answers where it sends the browser then.
    async fn sign_in(&self, login: &str, start: &str) -> String {
        let mut jar = BTreeMap::new();
        let mut url = start.to_owned();
        let mut form: Option<String> = None;
        for _ in 0..20 {
            let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = Request::builder()
                .method(if form.is_some() { Method::POST } else { Method::GET })
                .uri(&url)
                .header("cookie", cookies.join("; "))
                .header("content-type", "application/x-www-form-urlencoded");
            let answer =
                outbound::send(request.body(form.take().unwrap_or_default().into_bytes()).unwrap()).await.unwrap();
            for cookie in answer.headers().get_all(SET_COOKIE) {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                jar.insert(name.to_owned(), value.to_owned());
            }
            let Some(location) = answer.headers().get(LOCATION) else {
                let page = String::from_utf8_lossy(answer.body()).into_owned();
                let prompt = if page.contains("value=\"login\"") { "login" } else { "consent" };
                assert!(page.contains(prompt), "{}: {page}", answer.status());
                form =
                    Some(format!("prompt={prompt}&login={}&password=x", login.replace('@', "%40").replace('+', "%2B")));
                continue;
            };
            let location = location.to_str().unwrap();
            url = if location.starts_with('/') { format!("{}{location}", self.issuer) } else { location.to_owned() };
            if url.starts_with("https://atoll.example/") {
                return url;
            }
        }
        panic!("the provider goes in circles");
    }
}

async fn with_provider(
    database: TestDb,
    provider: &RealProvider,
    settings: impl FnOnce(&mut ControlConfig),
) -> TestApp {
    app_with(database, |config| {
        config.public_url = Some("https://atoll.example".to_owned());
        config.oidc = Some(provider.settings());
        settings(config);
    })
    .await
}

fn browser(test: &TestApp) -> Client {
    test.client.anonymous().with("host", "atoll.example")
}

fn cookies(answer: &Answer) -> Vec<String> {
    answer.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", String::from_utf8_lossy(&answer.body));
    answer.headers[LOCATION].to_str().unwrap().to_owned()
}

/// The browser on its way: the provider's address, and the browser with the cookie that it was given.
async fn set_out(test: &TestApp, path: &str) -> (String, Client) {
    let answer = browser(test).get(path).await;
    let state = cookies(&answer).remove(0);
    assert!(state.starts_with("__Host-atoll-sign-in=") && state.contains("SameSite=Lax") && state.contains("HttpOnly"));
    (location(&answer), browser(test).with("cookie", state.split(';').next().unwrap()))
}

fn path_of(url: &str) -> &str {
    url.strip_prefix("https://atoll.example").unwrap()
}

/// Signs in by the provider from beginning to end.
async fn go_through(test: &TestApp, provider: &RealProvider, login: &str) -> Answer {
    let (there, browser) = set_out(test, "/v1/auth/oidc/oidc?return_to=/dashboard").await;
    assert!(there.contains("code_challenge_method=S256") && there.contains("nonce="), "{there}");
    let back = provider.sign_in(login, &there).await;
    browser.get(path_of(&back)).await
}

async fn signed_in_as(test: &TestApp, answer: &Answer) -> Value {
    assert_eq!(location(answer), "/dashboard");
    let session = cookies(answer).into_iter().find(|cookie| cookie.starts_with("__Host-atoll=")).unwrap();
    assert!(session.contains("HttpOnly") && session.contains("Secure"));
    browser(test).with("cookie", session.split(';').next().unwrap()).get("/v1/me").await.json()
}

#[tokio::test]
async fn a_person_signs_in_with_a_real_openid_provider() {
    let provider = RealProvider::start();
    for database in databases().await {
        let test = with_provider(database, &provider, |_| {}).await;
        let config = test.client.anonymous().get("/v1/auth/config").await.json();
        assert_eq!(config["providers"], json!([{ "id": "oidc", "name": "The company" }]));
        let refused = go_through(&test, &provider, "new@example.test").await;
        assert_eq!(location(&refused), "/login?error=signup_closed", "accounts are made by invitation");

        let path = format!("/v1/teams/{}/invitations", test.team());
        test.first().await.post(&path, json!({ "email": "new@example.test", "role": "admin" })).await;
        let me = signed_in_as(&test, &go_through(&test, &provider, "new@example.test").await).await;
        assert_eq!((&me["email"], &me["has_password"]), (&json!("new@example.test"), &json!(false)));
        assert_eq!(me["name"], "Person new@example.test");
        let again = signed_in_as(&test, &go_through(&test, &provider, "new@example.test").await).await;
        assert_eq!(again["user_id"], me["user_id"]);

        let admin = signed_in_as(&test, &go_through(&test, &provider, "admin@example.test").await).await;
        assert_eq!(admin["user_id"], test.admin.user_id.as_str(), "an account that is there is linked by its address");
        assert_eq!(admin["has_password"], true);

        let unproven = go_through(&test, &provider, "unverified+admin@example.test").await;
        assert_eq!(location(&unproven), "/login?error=email_not_verified");
        test.first()
            .await
            .put(&format!("/v1/admin/users/{}/active", me["user_id"].as_str().unwrap()), json!({ "enabled": false }))
            .await;
        let off = go_through(&test, &provider, "new@example.test").await;
        assert_eq!(location(&off), "/login?error=account_disabled");
    }
}

#[tokio::test]
async fn a_sign_in_comes_back_once_to_the_browser_that_began_it() {
    for database in databases().await {
        let provider = RealProvider::start();
        let test = with_provider(database, &provider, |config| config.signup = SignupMode::Open).await;
        let (there, mine) = set_out(&test, "/v1/auth/oidc/oidc?return_to=/dashboard").await;
        let (_, others) = set_out(&test, "/v1/auth/oidc/oidc").await;
        let back = provider.sign_in("ada@example.test", &there).await;
        for stranger in [&browser(&test), &others] {
            assert_eq!(location(&stranger.get(path_of(&back)).await), "/login?error=not_begun");
        }
        signed_in_as(&test, &mine.get(path_of(&back)).await).await;
        assert_eq!(location(&mine.get(path_of(&back)).await), "/login?error=not_begun");
        let denied = mine.get("/v1/auth/oidc/oidc/callback?error=access_denied&state=x").await;
        assert_eq!(location(&denied), "/login?error=not_begun");
        let (there, late) = set_out(&test, "/v1/auth/oidc/oidc").await;
        let back = provider.sign_in("ada@example.test", &there).await;
        test.clock.advance(crate::accounts::SIGN_IN_TTL);
        assert_eq!(location(&late.get(path_of(&back)).await), "/login?error=not_begun");
        for elsewhere in ["//evil.example", "https://evil.example"] {
            let answer = browser(&test).get(&format!("/v1/auth/oidc/oidc?return_to={elsewhere}")).await;
            assert_error(&answer, 400, "invalid_request");
        }
        assert_error(&browser(&test).get("/v1/auth/oidc/github").await, 404, "not_found");
    }
}

#[tokio::test]
async fn whoever_signed_up_with_anothers_address_loses_the_account_to_its_owner() {
    let provider = RealProvider::start();
    for database in databases().await {
        let test = with_provider(database, &provider, |config| config.signup = SignupMode::Open).await;
        let body = json!({ "email": "ada@example.test", "password": "of the squatter", "name": "Ada" });
        let made = test.client.anonymous().post("/v1/auth/signup", body.clone()).await.json();
        let squatter = test.client.with_token(made["token"].as_str().unwrap());
        let key = squatter.post("/v1/api-keys", json!({ "name": "kept for later" })).await.expect(201).json();
        let key = test.client.with("x-api-key", key["key"].as_str().unwrap());
        key.get("/v1/sandboxes").await.expect(200);
        let team = format!("/v1/teams/{}/invitations", made["team_id"].as_str().unwrap());
        let sent = squatter.post(&team, json!({ "email": "accomplice@example.test", "role": "owner" })).await;
        let sent = sent.expect(201).json()["url"].as_str().unwrap().split_once('#').unwrap().1.to_owned();
        squatter.post("/v1/webhooks", json!({ "url": "https://squatter.example/" })).await.expect(201);
        let begun = test.client.anonymous().post("/v1/auth/device", json!({})).await.json();
        let decide = json!({ "user_code": begun["user_code"], "approve": true });
        squatter.post("/v1/auth/device/decision", decide).await.expect(204);
        let reset = format!("/v1/admin/users/{}/password-reset", made["user_id"].as_str().unwrap());
        let link = test.first().await.post(&reset, json!({})).await.expect(201).json();

        let answer = go_through(&test, &provider, "ada@example.test").await;
        let me = signed_in_as(&test, &answer).await;
        assert_eq!((&me["user_id"], &me["has_password"]), (&made["user_id"], &json!(false)));
        assert_error(&key.get("/v1/sandboxes").await, 401, "unauthorized");
        let nobody = test.client.anonymous();
        assert_error(&nobody.get(&format!("/v1/invitations/{sent}")).await, 404, "not_found");
        let code = json!({ "device_code": begun["device_code"] });
        assert_error(&nobody.post("/v1/auth/device/token", code).await, 400, "expired_token");
        let secret = link["url"].as_str().unwrap().split_once('#').unwrap().1;
        let confirm = json!({ "token": secret, "password": "of the squatter" });
        assert_error(&nobody.post("/v1/auth/password/reset/confirm", confirm).await, 404, "not_found");
        let trail = test.first().await.get("/v1/admin/audit-logs?action=user.take_over").await.json();
        let [entry] = &trail["items"].as_array().unwrap()[..] else { panic!("{trail}") };
        let details =
            json!({ "sessions_ended": 1, "api_keys_deleted": 1, "invitations_deleted": 1, "webhooks_deleted": 1 });
        assert_eq!(entry["details"], details);
        assert_error(&squatter.get("/v1/me").await, 401, "unauthorized");
        assert_error(&test.client.anonymous().post("/v1/auth/login", body_of_login(&body)).await, 401, "unauthorized");
    }
}

fn body_of_login(signup: &Value) -> Value {
    json!({ "email": signup["email"], "password": signup["password"] })
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_so() {
    for (database, another) in databases().await.into_iter().zip(databases().await) {
        let test = app_with(database, |config| {
            config.oidc = Some(OidcSettings {
                name: "Away".to_owned(),
                issuer: "http://127.0.0.1:1".to_owned(),
                client_id: "atoll".to_owned(),
                client_secret: "secret".to_owned().into(),
            });
        })
        .await;
        assert_error(&browser(&test).get("/v1/auth/oidc/oidc").await, 502, "provider_error");
        let plain = app(another).await;
        assert_error(&browser(&plain).get("/v1/auth/oidc/oidc").await, 404, "not_found");
    }
}

/// Answers as GitHub's documentation says that GitHub does. Not GitHub.
#[derive(Clone, Default)]
struct FakeGithub {
    challenge: Arc<Mutex<String>>,
}

impl FakeGithub {
    async fn start(&self) -> String {
        let router = Router::new()
            .route("/login/oauth/access_token", post(Self::token))
            .route("/user", get(Self::user))
            .route("/user/emails", get(Self::emails))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    async fn token(State(this): State<Self>, body: Bytes) -> Json<Value> {
        let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
        if form["code"] == "right" && form["client_secret"] == "secret" && challenge == *this.challenge.lock().unwrap()
        {
            return Json(json!({ "access_token": "gho_1", "token_type": "bearer", "scope": "read:user,user:email" }));
        }
        Json(json!({ "error": "bad_verification_code" }))
    }

    async fn user() -> Json<Value> {
        Json(json!({ "id": 583_231, "login": "octocat", "name": null }))
    }

    async fn emails() -> Json<Value> {
        Json(json!([
            { "email": "admin@example.test", "primary": false, "verified": false, "visibility": null },
            { "email": "Octo@example.test", "primary": true, "verified": true, "visibility": "public" },
        ]))
    }
}

#[tokio::test]
async fn a_person_signs_in_with_github_by_their_verified_primary_address() {
    let github = FakeGithub::default();
    let url = github.start().await;
    for database in databases().await {
        let test = app_with(database, |config| {
            config.public_url = Some("https://atoll.example".to_owned());
            config.signup = SignupMode::Open;
            config.github = Some(GithubSettings {
                client_id: "id".to_owned(),
                client_secret: "secret".to_owned().into(),
                web_url: url.clone(),
                api_url: url.clone(),
            });
        })
        .await;
        for (code, good) in [("wrong", false), ("right", true)] {
            let (there, browser) = set_out(&test, "/v1/auth/oidc/github?return_to=/dashboard").await;
            let query: BTreeMap<String, String> =
                form_urlencoded::parse(there.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
            assert_eq!(query["redirect_uri"], "https://atoll.example/v1/auth/oidc/github/callback");
            *github.challenge.lock().unwrap() = query["code_challenge"].clone();
            let back = format!("/v1/auth/oidc/github/callback?code={code}&state={}", query["state"]);
            let answer = browser.get(&back).await;
            if good {
                let me = signed_in_as(&test, &answer).await;
                assert_eq!((&me["email"], &me["name"]), (&json!("octo@example.test"), &json!("octocat")));
            } else {
                assert_eq!(location(&answer), "/login?error=sign_in_failed");
            }
        }
    }
}
