//! The routes of hosts: who may do what, what agents get, and in which order requests are judged.

use std::time::Duration;

use atoll_image::packed::{Index, Unpacker};
use atoll_model::api::hosts::HostCredentials;
use atoll_model::{SessionId, TeamId, UserId};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::accounts::token::Subject;
use crate::db::on;
use crate::db::testing::databases;
use crate::hosts::tests::{Agent, beat};
use crate::testing::{Answer, Client, TestApp, app};

/// A team with one person of each role.
struct People {
    team: TeamId,
    owner: Client,
    admin: Client,
    member: Client,
}

async fn execute(test: &TestApp, sql: String) {
    on!(write & test.app.db, |c| sqlx::query(sqlx::AssertSqlSafe(sql)).execute(c).await.map(|_| ())).unwrap();
}

async fn people(test: &TestApp, is_byoc: bool) -> People {
    let team = TeamId::new();
    let slug = team.tail();
    execute(
        test,
        format!(
            "INSERT INTO teams (id, name, slug, is_byoc, created_at, updated_at)
             VALUES ('{team}', 'Team {slug}', '{slug}', {is_byoc}, 0, 0)"
        ),
    )
    .await;
    let (owner, admin, member) =
        (person(test, &team, "owner").await, person(test, &team, "admin").await, person(test, &team, "member").await);
    People { team, owner, admin, member }
}

async fn person(test: &TestApp, team: &TeamId, role: &str) -> Client {
    let (user, session, now) = (UserId::new(), SessionId::new(), test.clock.now());
    let (mail, ends) = (user.tail(), now.0 + 3_600_000);
    for sql in [
        format!(
            "INSERT INTO users (id, email, name, is_admin, is_active, created_at, updated_at)
             VALUES ('{user}', '{mail}@example.test', 'P', false, true, 0, 0)"
        ),
        format!(
            "INSERT INTO team_members (team_id, user_id, role, created_at) VALUES ('{team}', '{user}', '{role}', 0)"
        ),
        format!(
            "INSERT INTO sessions (id, user_id, team_id, created_at, expires_at)
             VALUES ('{session}', '{user}', '{team}', 0, {ends})"
        ),
    ] {
        execute(test, sql).await;
    }
    let (email, name) = ("x@example.test", "P");
    let subject = Subject { user: &user, session: &session, team, role, email, name, is_admin: false };
    let token = test.app.accounts.tokens().sign(&subject, now, Duration::from_secs(3600)).unwrap();
    test.client.with_token(token.expose_secret())
}

async fn platform_admin(test: &TestApp) -> Client {
    let token = test.client.login("admin@example.test", &test.admin.password).await;
    test.client.with_token(&token)
}

fn text(answer: &Answer) -> String {
    format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// Makes a host; its id and registration token.
async fn make(client: &Client, body: Value) -> (String, String) {
    let answer = client.post("/v1/hosts", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", text(&answer));
    let made = answer.json();
    assert_eq!(made["host"]["status"], "pending");
    (made["host"]["id"].as_str().unwrap().to_owned(), made["registration_token"].as_str().unwrap().to_owned())
}

async fn register(client: &Client, token: &str) -> Agent {
    let mut agent = Agent::new();
    let request = serde_json::to_value(agent.registration(token)).unwrap();
    let answer = client.anonymous().post("/v1/hosts/register", request).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    agent.credentials = Some(serde_json::from_slice::<HostCredentials>(&answer.body).unwrap());
    agent
}

#[tokio::test]
async fn rights_are_as_the_table_has_them() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let ours = people(&test, true).await;
        let others = people(&test, true).await;
        let (regular, _) = make(&platform, json!({ "name": "regular" })).await;
        let (byoc, _) = make(&ours.admin, json!({ "type": "byoc" })).await;

        // Who makes what.
        let regular_by = |client: Client| async move { client.post("/v1/hosts", json!({})).await.status.as_u16() };
        for client in [&ours.owner, &ours.admin, &ours.member] {
            assert_eq!(regular_by(client.clone()).await, 403);
        }
        let for_team = json!({ "type": "byoc", "team_id": ours.team });
        for (client, expected) in [
            (&platform, 201),
            (&ours.owner, 201),
            (&ours.admin, 201),
            (&ours.member, 403),
            (&others.owner, 404),
            (&test.client.anonymous(), 401),
        ] {
            let answer = client.post("/v1/hosts", for_team.clone()).await;
            assert_eq!(answer.status.as_u16(), expected, "{}", text(&answer));
        }
        let plain = people(&test, false).await;
        assert_eq!(plain.owner.post("/v1/hosts", json!({ "type": "byoc" })).await.status.as_u16(), 403);
        let nobody = json!({ "type": "byoc", "team_id": TeamId::new() });
        assert_eq!(platform.post("/v1/hosts", nobody).await.status.as_u16(), 404);

        // Who sees and manages what: method and path, then platform admin, owner, member, another team's owner.
        let on_byoc: [(Method, &str, Value, [u16; 4]); 9] = [
            (Method::GET, "", json!(null), [200, 200, 200, 404]),
            (Method::GET, "/tags", json!(null), [200, 200, 200, 404]),
            (Method::GET, "/delete-preview", json!(null), [200, 200, 403, 404]),
            (Method::PATCH, "", json!({ "name": "n" }), [200, 200, 403, 404]),
            (Method::POST, "/tags", json!({ "tags": ["a"] }), [200, 200, 403, 404]),
            (Method::DELETE, "/tags?tag=a", json!(null), [204, 204, 403, 404]),
            (Method::POST, "/drain", json!({}), [200, 200, 403, 404]),
            (Method::POST, "/undrain", json!({}), [200, 200, 403, 404]),
            (Method::POST, "/token", json!({}), [201, 201, 403, 404]),
        ];
        let callers = [&platform, &ours.owner, &ours.member, &others.owner];
        for (method, path, body, expected) in &on_byoc {
            for (client, expected) in callers.iter().zip(expected) {
                let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
                let client = client.with("content-type", "application/json");
                let answer = client.send(method.clone(), &format!("/v1/hosts/{byoc}{path}"), body).await;
                assert_eq!(answer.status.as_u16(), *expected, "{method} {path}: {}", text(&answer));
            }
        }
        // A regular host is not there for a team, and not to be managed by it.
        assert_eq!(ours.owner.get(&format!("/v1/hosts/{regular}")).await.status.as_u16(), 404);
        for (client, expected) in [(&ours.member, 403), (&ours.owner, 403), (&platform, 204)] {
            assert_eq!(client.delete(&format!("/v1/hosts/{regular}")).await.status.as_u16(), expected);
        }
        for (client, expected) in [(&others.owner, 404), (&ours.member, 403), (&ours.admin, 204)] {
            assert_eq!(client.delete(&format!("/v1/hosts/{byoc}")).await.status.as_u16(), expected);
        }

        // Lists: everything with team names for the platform, one's own without for a team.
        let all = platform.get("/v1/admin/hosts").await.json();
        assert!(all["items"].as_array().unwrap().iter().all(|host| host["team_name"].is_string()));
        let own = ours.member.get("/v1/hosts").await.json();
        let own = own["items"].as_array().unwrap().clone();
        assert_eq!(own.len(), 3);
        assert!(own.iter().all(|host| host["team_id"] == json!(ours.team) && host["team_name"].is_null()));
        assert_eq!(others.member.get("/v1/hosts").await.json()["items"], json!([]));
        assert_eq!(ours.owner.get("/v1/admin/hosts").await.status.as_u16(), 403);
    }
}

#[tokio::test]
async fn credentials_are_judged_before_anything_else() {
    for db in databases().await {
        let test = app(db).await;
        let (anyone, platform) = (test.client.anonymous(), platform_admin(&test).await);
        let post = |path: &'static str, body: &'static str| {
            let client = anyone.with("content-type", "application/json");
            async move { client.send(Method::POST, path, body).await.status.as_u16() }
        };
        for body in ["", "{", "{}", "[]", r#"{"token":"x"}"#, r#"{"token":"x","csr":7}"#] {
            assert_eq!(post("/v1/hosts/register", body).await, 401, "{body}");
        }
        for body in ["", "{", "{}", r#"{"refresh_token":"x"}"#, r#"{"refresh_token":"x","csr":"y","timestamp_ms":0}"#] {
            assert_eq!(post("/v1/hosts/auth/refresh", body).await, 401, "{body}");
        }
        let (id, token) = make(&platform, json!({})).await;
        let bad = anyone.post("/v1/hosts/register", json!({ "token": token, "address": 7 })).await;
        assert_eq!((bad.status.as_u16(), bad.field().as_str()), (400, "address"));
        let agent = register(&anyone, &token).await;
        assert_eq!(agent.id().as_str(), id);

        let path = format!("/v1/hosts/{id}/heartbeat");
        assert_eq!(anyone.post(&path, json!({})).await.status.as_u16(), 401);
        let access = agent.credentials().access_token.clone();
        let as_host = anyone.with("x-host-token", &access);
        assert_eq!(as_host.post(&path, json!({})).await.status.as_u16(), 400);
        let mut beat = serde_json::to_value(beat()).unwrap();
        assert_eq!(as_host.post(&path, beat.clone()).await.status.as_u16(), 204);
        beat["address"] = json!("169.254.169.254:80");
        assert_eq!(as_host.post(&path, beat).await.field(), "address");

        // A host's token is no user's, and the reverse.
        assert_eq!(anyone.with_token(&access).get("/v1/me").await.status.as_u16(), 401);
        let user = test.client.login("admin@example.test", &test.admin.password).await;
        assert_eq!(anyone.with("x-host-token", &user).post(&path, json!({})).await.status.as_u16(), 401);
    }
}

#[tokio::test]
async fn a_new_token_is_refused_for_a_healthy_host_and_the_first_is_not_shown_twice() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let keyed = platform.with("idempotency-key", "k1");
        let first = keyed.post("/v1/hosts", json!({})).await.json();
        let again = keyed.post("/v1/hosts", json!({})).await.json();
        assert_eq!(first["host"]["id"], again["host"]["id"]);
        assert_eq!(again["registration_token"], "");
        register(&test.client, first["registration_token"].as_str().unwrap()).await;
        let id = first["host"]["id"].as_str().unwrap();
        let refused = platform.post(&format!("/v1/hosts/{id}/token"), json!({})).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "invalid_state"));
    }
}

#[tokio::test]
async fn a_deleted_host_is_told_so_with_proof() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let (id, token) = make(&platform, json!({})).await;
        let agent = register(&test.client, &token).await;
        let deleted = platform.delete(&format!("/v1/hosts/{id}?force=true")).await;
        assert_eq!(deleted.status.as_u16(), 204, "{}", text(&deleted));
        assert_eq!(platform.get(&format!("/v1/hosts/{id}")).await.status.as_u16(), 404);
        let as_host = test.client.anonymous().with("x-host-token", &agent.credentials().access_token);
        let beat = serde_json::to_value(beat()).unwrap();
        let told = as_host.post(&format!("/v1/hosts/{id}/heartbeat"), beat).await;
        assert_eq!((told.status.as_u16(), told.code().as_str()), (410, "host_deleted"));
        assert_eq!(told.json()["error"]["tombstone"]["host_id"], json!(id));
    }
}

#[tokio::test]
async fn a_host_gets_the_images_that_it_may_have_and_no_others() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let (ours, others) = (people(&test, true).await, people(&test, true).await);
        let mut hosts = Vec::new();
        for body in [json!({}), json!({ "type": "byoc", "team_id": ours.team })] {
            let (id, token) = make(&platform, body).await;
            let agent = register(&test.client, &token).await;
            hosts.push((id, test.client.anonymous().with("x-host-token", &agent.credentials().access_token)));
        }
        let images = test.app.config.cache_dir.join("images");
        std::fs::create_dir_all(&images).unwrap();
        let mut digests = Vec::new();
        for (name, team) in [("p", None), ("ours", Some(&ours.team)), ("others", Some(&others.team))] {
            let digest = hex::encode([name.len() as u8 + name.as_bytes()[0]; 32]);
            std::fs::write(images.join(format!("{digest}.erofs")), name).unwrap();
            let team = team.map_or("NULL".to_owned(), |team| format!("'{team}'"));
            let id = atoll_model::TemplateId::new();
            execute(
                &test,
                format!(
                    "INSERT INTO templates (id, team_id, name, kind, digest, size_bytes, driver, default_user,
                         default_workdir, created_at, updated_at)
                     VALUES ('{id}', {team}, '{name}', 'template', '{digest}', 1, 'auto', 'u', '/', 0, 0)"
                ),
            )
            .await;
            digests.push(digest);
        }
        // Per host: the platform's, our team's, another team's.
        for ((id, client), expected) in hosts.iter().zip([[200, 404, 404], [200, 200, 404]]) {
            for (digest, expected) in digests.iter().zip(expected) {
                let answer = client.get(&format!("/v1/hosts/{id}/images/{digest}")).await;
                assert_eq!(answer.status.as_u16(), expected, "{}", text(&answer));
            }
            let answer = client.get(&format!("/v1/hosts/{id}/images/{}", digests[0])).await;
            assert_eq!((answer.body.as_slice(), answer.headers["content-length"].to_str().unwrap()), (&b"p"[..], "1"));
            let packs = client.with("accept-encoding", "gzip, zstd");
            let answer = packs.get(&format!("/v1/hosts/{id}/images/{}", digests[0])).await;
            assert_eq!(answer.headers["content-encoding"], "zstd");
            let (mut unpacker, mut image) = (Unpacker::new().unwrap(), Vec::new());
            let mut take = |piece: &[u8]| std::io::Write::write_all(&mut image, piece);
            unpacker.push(&answer.body, &mut take).unwrap();
            unpacker.finish().unwrap();
            assert_eq!(image, b"p");
        }
        // What lies in the object store can be had in parts, by its index.
        let (id, client) = (&hosts[0].0, &hosts[0].1);
        let (path, packs) = (format!("/v1/hosts/{id}/images/{}", digests[0]), client.with("accept-encoding", "zstd"));
        client.get(&format!("{path}/index")).await.expect(404);
        packs.with("range", "bytes=0-3").get(&path).await.expect(200);
        let image: Vec<u8> = (0..2_500_000_u32).map(|at| (at / 9) as u8).collect();
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&image));
        let mut draft = test.app.layers.objects().draft(&digest, 1 << 22).unwrap();
        draft.write(image.clone().into()).await.unwrap();
        draft.finish().await.unwrap();
        let path = format!("/v1/hosts/{id}/images/{digest}");
        client.get(&format!("{path}/index")).await.expect(404);
        execute(&test, format!("UPDATE templates SET digest = '{digest}' WHERE name = 'ours'")).await;
        client.get(&format!("{path}/index")).await.expect(404);
        execute(&test, format!("UPDATE templates SET digest = '{digest}' WHERE name = 'p'")).await;
        let index = client.get(&format!("{path}/index")).await.expect(200);
        let index = Index::decode(&index.body).unwrap();
        let whole = packs.get(&path).await.expect(200);
        let place = index.packed(&(1..2));
        let range = format!("bytes={}-{}", place.start, place.end - 1);
        let part = packs.with("range", &range).get(&path).await.expect(206);
        assert_eq!(part.headers["content-range"], format!("{range}/{}", whole.body.len()).replace('=', " ").as_str());
        assert_eq!(index.chunks()[1].unpack(&part.body).unwrap(), image[1 << 20..2 << 20]);
        for whole_all_the_same in ["bytes=99999999-999999999", "bytes=-5", "bytes=0-1,4-5", "bytes=4-3", "lines=1-2"] {
            let answer = packs.with("range", whole_all_the_same).get(&path).await.expect(200);
            assert!(answer.body == whole.body, "{whole_all_the_same}");
        }
        // Another form has other parts.
        assert!(client.with("range", "bytes=0-3").get(&path).await.expect(200).body == image);
        execute(&test, format!("UPDATE templates SET digest = '{}' WHERE name = 'p'", digests[0])).await;
        execute(&test, format!("UPDATE templates SET digest = '{}' WHERE name = 'ours'", digests[1])).await;
        let (id, client) = (&hosts[0].0, &hosts[1].1);
        let path = format!("/v1/hosts/{id}/images/{}", digests[0]);
        assert_eq!(client.get(&path).await.status.as_u16(), 403, "another host's");
        assert_eq!(test.client.anonymous().get(&path).await.status.as_u16(), 401);
        for wrong in ["x", "..%2f..%2fcontrol.db", &"A".repeat(64)] {
            let answer = hosts[0].1.get(&format!("/v1/hosts/{id}/images/{wrong}")).await;
            assert_eq!(answer.status.as_u16(), 404, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_host_bears_its_tags_wherever_it_is_shown() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let (id, _) = make(&platform, json!({})).await;
        let (bare, _) = make(&platform, json!({})).await;
        let path = format!("/v1/hosts/{id}");
        let tags = format!("{path}/tags");
        let added = platform.post(&tags, json!({ "tags": ["rack 7", "gpu", "gpu"] })).await.expect(200);
        assert_eq!(added.json()["tags"], json!(["gpu", "rack 7"]));
        // At once, from many: none is lost.
        let more = (0..6).map(|n| platform.post(&tags, json!({ "tags": [format!("n{n}")] })));
        for answer in futures::future::join_all(more).await {
            answer.expect(200);
        }
        platform.send(Method::DELETE, &format!("{tags}?tag=rack%207"), Body::empty()).await.expect(204);
        let all = json!(["gpu", "n0", "n1", "n2", "n3", "n4", "n5"]);
        assert_eq!(platform.get(&path).await.json()["tags"], all);
        assert_eq!(platform.get(&tags).await.json()["tags"], all);
        let json_client = platform.with("content-type", "application/json");
        let renamed = json_client.send(Method::PATCH, &path, json!({ "name": "n" }).to_string()).await;
        assert_eq!(renamed.expect(200).json()["tags"], all);
        for list in ["/v1/hosts", "/v1/admin/hosts"] {
            let page = platform.get(list).await.expect(200).json();
            let of = |id: &str| {
                let items = page["items"].as_array().unwrap();
                items.iter().find(|host| host["id"] == id).map(|host| host["tags"].clone())
            };
            assert_eq!((of(&id), of(&bare)), (Some(all.clone()), Some(json!([]))), "{list}");
        }
        let many: Vec<_> = (0..58).map(|n| format!("m{n}")).collect();
        let refused = platform.post(&tags, json!({ "tags": many })).await.expect(400);
        assert_eq!(refused.json()["error"]["field"], "tags");
    }
}

#[tokio::test]
async fn who_guesses_behind_an_address_locks_no_host_out_that_shares_it() {
    for db in databases().await {
        let test = app(db).await;
        let platform = platform_admin(&test).await;
        let (host, token) = make(&platform, json!({})).await;
        let mut request = serde_json::to_value(Agent::new().registration("art_guessed")).unwrap();
        let mut last = 0;
        // Each guess another one: what is asked for again and again has a limit of its own.
        for guess in 0..400 {
            request["token"] = json!(format!("art_guessed{guess}"));
            last = platform.anonymous().post("/v1/hosts/register", request.clone()).await.status.as_u16();
            if last == 429 {
                break;
            }
        }
        assert_eq!(last, 429);
        request["token"] = json!("another");
        assert_eq!(platform.anonymous().post("/v1/hosts/register", request).await.status.as_u16(), 429);
        let agent = register(&platform, &token).await;
        let (_, body, signature) = agent.signed(&agent.credentials().refresh_token);
        let client = platform.anonymous().with("x-host-signature", &signature).with("content-type", "application/json");
        let refreshed = client.send(Method::POST, "/v1/hosts/auth/refresh", Body::from(body)).await;
        assert_eq!(refreshed.status, StatusCode::OK, "{}", text(&refreshed));
        assert_eq!(agent.id().as_str(), host);
    }
}
