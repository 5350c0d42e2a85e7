//! Pushing and pulling as clients do it, over both databases; on PostgreSQL each request comes to another replica.

use std::io::Write;
use std::time::Duration;

use axum::http::Method;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::db::testing::databases;
use crate::testing::{Answer, Client, TestApp, app};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(bytes: impl AsRef<[u8]>) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A client with nothing but a key as the password of HTTP's Basic scheme.
fn docker(client: &Client) -> Client {
    let pair = STANDARD.encode(format!("_e2b_access_token:{}", client.header("x-api-key")));
    client.anonymous().with("authorization", &format!("Basic {pair}"))
}

fn code(answer: &Answer) -> String {
    answer.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

fn text<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

async fn begun(client: &Client, repository: &str) -> String {
    let begun = client.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), "").await.expect(202);
    text(&begun, "location").to_owned()
}

/// Begins an upload, sends all at once and finishes, as docker does.
async fn pushed(client: &Client, repository: &str, bytes: &[u8]) -> String {
    let (at, digest) = (begun(client, repository).await, digest(bytes));
    client.send(Method::PATCH, &at, bytes.to_vec()).await.expect(202);
    client.send(Method::PUT, &format!("{at}?digest={}", digest.replace(':', "%3A")), "").await.expect(201);
    digest
}

async fn tagged(client: &Client, path: &str, kind: &str, content: &Value) -> Answer {
    client.with("content-type", kind).send(Method::PUT, path, content.to_string()).await
}

fn image_of(config: &str, layers: &[&str]) -> Value {
    let named = |digest: &str| json!({ "digest": digest, "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip" });
    let layers: Vec<_> = layers.iter().map(|digest| named(digest)).collect();
    json!({ "schemaVersion": 2, "config": named(config), "layers": layers })
}

#[tokio::test]
async fn a_key_is_the_password_and_who_has_none_is_told_how_to_ask() {
    for db in databases().await {
        let test = app(db).await;
        let anonymous = test.client.anonymous();
        for client in [
            anonymous.clone(),
            anonymous.with("authorization", "Basic eDphdGxfeA=="),
            anonymous.with("authorization", "Basic !"),
        ] {
            for path in ["/v2/", "/v2", "/v2/app/manifests/x"] {
                let refused = client.get(path).await.expect(401);
                assert_eq!(code(&refused), "UNAUTHORIZED");
                assert!(refused.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic realm="));
                assert_eq!(text(&refused, "docker-distribution-api-version"), "registry/2.0");
            }
        }
        docker(&test.client).get("/v2/").await.expect(200);
        test.client.get("/v2/").await.expect(200);
        let person = test.first().await;
        let token = person.header("authorization").strip_prefix("Bearer ").unwrap().to_owned();
        let pair = STANDARD.encode(format!("someone:{token}"));
        anonymous.with("authorization", &format!("Basic {pair}")).get("/v2/").await.expect(200);
        // Nobody's browser and no key for less gets in.
        let made = person.post("/v1/api-keys", json!({ "name": "k", "scope": "sandboxes" })).await.expect(201).json();
        let lesser = test.client.anonymous().with("x-api-key", made["key"].as_str().unwrap());
        assert_eq!(code(&docker(&lesser).get("/v2/").await.expect(403)), "DENIED");
    }
}

#[tokio::test]
async fn a_blob_comes_in_one_part_or_several_and_is_there_once_its_digest_was_checked() {
    for db in databases().await {
        let test = app(db).await;
        let client = docker(&test.client);
        let bytes = b"some layer of an image".to_vec();
        let named = digest(&bytes);
        let path = format!("/v2/team/app/blobs/{named}");
        assert_eq!(code(&client.get(&path).await.expect(404)), "BLOB_UNKNOWN");

        // What isn't what it says is nothing, and its upload is over.
        let at = begun(&client, "team/app").await;
        client.send(Method::PATCH, &at, "something else").await.expect(202);
        let wrong = client.send(Method::PUT, &format!("{at}?digest={named}"), "").await.expect(400);
        assert_eq!(code(&wrong), "DIGEST_INVALID");
        client.get(&path).await.expect(404);
        assert_eq!(code(&client.get(&at).await.expect(404)), "BLOB_UPLOAD_UNKNOWN");

        // In parts, each where the one before has ended.
        let at = begun(&client, "team/app").await;
        let (one, rest) = bytes.split_at(5);
        let part = |range: &str| client.with("content-range", range);
        let after = part("0-4").send(Method::PATCH, &at, one.to_vec()).await.expect(202);
        assert_eq!(text(&after, "range"), "0-4");
        let again = part("0-4").send(Method::PATCH, &at, one.to_vec()).await.expect(416);
        assert_eq!((again.headers[RANGE].to_str().unwrap(), code(&again).as_str()), ("0-4", "BLOB_UPLOAD_INVALID"));
        part("x").send(Method::PATCH, &at, one.to_vec()).await.expect(400);
        assert_eq!(text(&client.get(&at).await.expect(204), "range"), "0-4");
        part("5-9").send(Method::PATCH, &at, rest[..5].to_vec()).await.expect(202);
        client.get(&path).await.expect(404);
        // Under no digest, or none that could be, nothing is taken.
        for query in ["", "?digest=sha512:00"] {
            let refused = client.send(Method::PUT, &format!("{at}{query}"), rest[5..].to_vec()).await.expect(400);
            assert_eq!(code(&refused), "DIGEST_INVALID");
        }
        client.send(Method::POST, "/v2/team/app/blobs/uploads/?digest=x", "y").await.expect(400);
        let done = client.send(Method::PUT, &format!("{at}?digest={named}"), rest[5..].to_vec()).await.expect(201);
        assert_eq!((text(&done, "location"), text(&done, "docker-content-digest")), (path.as_str(), named.as_str()));
        // Who didn't hear that asks again.
        client.send(Method::PUT, &format!("{at}?digest={named}"), "").await.expect(201);
        client.send(Method::PUT, &format!("{at}?digest={}", digest("else")), "").await.expect(404);
        let read = client.get(&path).await.expect(200);
        assert_eq!((read.body, read.headers[CONTENT_LENGTH].to_str().unwrap()), (bytes.clone(), "22"));
        let looked = client.send(Method::HEAD, &path, "").await.expect(200);
        assert_eq!((looked.body.len(), text(&looked, "docker-content-digest")), (0, named.as_str()));

        // Again, whole, under another name; without sending it; and nothing at all.
        let whole = format!("/v2/other/blobs/uploads/?digest={named}");
        client.send(Method::POST, &whole, bytes.clone()).await.expect(201);
        client.send(Method::POST, &whole, "x").await.expect(400);
        let mount = format!("/v2/third/blobs/uploads/?mount={named}&from=team/app");
        let mounted = client.send(Method::POST, &mount, "").await.expect(201);
        assert_eq!(mounted.headers[LOCATION].to_str().unwrap(), format!("/v2/third/blobs/{named}"));
        let nothing = digest("");
        let mount = format!("/v2/third/blobs/uploads/?mount={nothing}&from=team/app");
        client.send(Method::POST, &mount, "").await.expect(202);
        let at = begun(&client, "third").await;
        client.send(Method::PUT, &format!("{at}?digest={nothing}"), "").await.expect(201);
        assert!(client.get(&format!("/v2/third/blobs/{nothing}")).await.expect(200).body.is_empty());
        client.delete(&format!("/v2/third/blobs/{nothing}")).await.expect(405);
        let at = begun(&client, "third").await;
        client.delete(&at).await.expect(204);
        client.delete(&at).await.expect(404);

        // What one team has is there for nobody else.
        let other = docker(&test.another_team().await);
        other.get(&path).await.expect(404);
        let at = begun(&client, "team/app").await;
        other.send(Method::PATCH, &at, "x").await.expect(404);
        other.send(Method::POST, &format!("/v2/app/blobs/uploads/?mount={named}&from=team/app"), "").await.expect(202);
        for path in ["/v2/_catalog", "/v2/App/manifests/x", "/v2/a/../b/manifests/x", "/v2/app/referrers/x"] {
            assert_eq!(code(&client.get(path).await.expect(404)), "NAME_INVALID", "{path}");
        }
    }
}

#[tokio::test]
async fn a_manifest_is_kept_as_it_came_and_names_only_what_was_pushed() {
    for db in databases().await {
        let test = app(db).await;
        let client = docker(&test.client);
        let (config, layer) = (pushed(&client, "app", b"{}").await, pushed(&client, "app", b"layer").await);
        let image = image_of(&config, &[&layer]);
        let missing = image_of(&config, &[&digest("never pushed")]);
        for (path, kind, content, status, name) in [
            ("app/manifests/1", IMAGE, &missing, 404, "MANIFEST_BLOB_UNKNOWN"),
            ("app/manifests/1", IMAGE, &json!({}), 400, "MANIFEST_INVALID"),
            ("app/manifests/1", "application/json", &image, 400, "MANIFEST_INVALID"),
            (&format!("app/manifests/{layer}"), IMAGE, &image, 400, "DIGEST_INVALID"),
        ] {
            let refused = tagged(&client, &format!("/v2/{path}"), kind, content).await.expect(status);
            assert_eq!(code(&refused), name);
        }
        let large = image_of(&config, &vec![layer.as_str(); 60_000]);
        tagged(&client, "/v2/app/manifests/1", IMAGE, &large).await.expect(413);
        client.get("/v2/app/manifests/1").await.expect(404);
        assert_eq!(code(&client.get("/v2/app/tags/list").await.expect(404)), "NAME_UNKNOWN");

        let kept = tagged(&client, "/v2/app/manifests/1", IMAGE, &image).await.expect(201);
        let named = digest(image.to_string());
        assert_eq!(text(&kept, "docker-content-digest"), named);
        let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "digest": named, "size": 1 }] });
        tagged(&client, "/v2/app/manifests/all", INDEX, &list).await.expect(201);
        tagged(&client, "/v2/elsewhere/manifests/all", INDEX, &list).await.expect(404);
        for reference in ["1", &named] {
            let read = client.get(&format!("/v2/app/manifests/{reference}")).await.expect(200);
            assert_eq!(
                (read.body.as_slice(), text(&read, CONTENT_TYPE.as_str())),
                (image.to_string().as_bytes(), IMAGE)
            );
            client.send(Method::HEAD, &format!("/v2/app/manifests/{reference}"), "").await.expect(200);
            docker(&test.another_team().await).get(&format!("/v2/app/manifests/{reference}")).await.expect(404);
        }
        let listed = client.get("/v2/app/tags/list").await.expect(200).json();
        assert_eq!(listed, json!({ "name": "app", "tags": ["1", "all"] }));
        let page = client.get("/v2/app/tags/list?n=1").await.expect(200);
        assert_eq!(text(&page, "link"), "</v2/app/tags/list?n=1&last=1>; rel=\"next\"");
        assert_eq!(page.json()["tags"], json!(["1"]));
        let page = client.get("/v2/app/tags/list?n=1&last=1").await.expect(200);
        assert_eq!((page.json()["tags"].clone(), page.headers.get("link")), (json!(["all"]), None));
        client.get("/v2/app/tags/list?n=x").await.expect(400);
        client.delete("/v2/app/manifests/1").await.expect(202);
        client.delete("/v2/app/manifests/1").await.expect(404);
        // It is on a list.
        assert_eq!(code(&client.delete(&format!("/v2/app/manifests/{named}")).await.expect(405)), "UNSUPPORTED");
        client.get(&format!("/v2/app/manifests/{named}")).await.expect(200);
        client.delete("/v2/app/manifests/all").await.expect(202);
        client.delete(&format!("/v2/app/manifests/{}", digest(list.to_string()))).await.expect(202);
        client.delete(&format!("/v2/app/manifests/{named}")).await.expect(202);
        client.get(&format!("/v2/app/manifests/{named}")).await.expect(404);
    }
}

#[tokio::test]
async fn uploads_that_were_left_make_room_for_others() {
    for db in databases().await {
        let test = app(db).await;
        let client = docker(&test.client);
        let first = begun(&client, "app").await;
        client.send(Method::PATCH, &first, "half").await.expect(202);
        for _ in 1..200 {
            begun(&client, "app").await;
        }
        let refused = client.send(Method::POST, "/v2/app/blobs/uploads/", "").await.expect(429);
        assert_eq!(code(&refused), "TOOMANYREQUESTS");
        test.clock.advance(Duration::from_secs(16 * 60));
        begun(&client, "app").await;
        client.get(&first).await.expect(404);
        assert!(parts(&test).is_empty());
    }
}

/// Names of parts in the store's folder.
fn parts(test: &TestApp) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(test.app.layers.objects().folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_part = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("blob-");
    all.filter(is_part).collect()
}

#[tokio::test]
async fn what_no_manifest_names_and_nobody_uses_goes_and_all_else_stays() {
    for db in databases().await {
        let test = app(db).await;
        let client = docker(&test.client);
        let (config, layer) = (pushed(&client, "app", b"{}").await, pushed(&client, "app", b"layer").await);
        let image = image_of(&config, &[&layer]);
        tagged(&client, "/v2/app/manifests/1", IMAGE, &image).await.expect(201);
        let loose = pushed(&client, "app", b"loose").await;
        let left = begun(&client, "app").await;
        client.send(Method::PATCH, &left, "half").await.expect(202);
        // A part that a crash left without a row.
        let stray = test.app.layers.objects().folder().join(format!("blob-{}-0-00000000", "0".repeat(32)));
        std::fs::write(&stray, "stray").unwrap();
        test.app.registry.tend().await.unwrap();
        assert_eq!(parts(&test).len(), 5, "it is all new");
        let day_old = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
        for path in parts(&test) {
            std::fs::File::options().write(true).open(path).unwrap().set_modified(day_old).unwrap();
        }
        test.app.registry.tend().await.unwrap();
        assert_eq!(parts(&test).len(), 4, "the stray is gone");

        test.clock.advance(Duration::from_secs(7 * 3600));
        test.app.registry.tend().await.unwrap();
        client.get(&left).await.expect(404);
        assert_eq!(parts(&test).len(), 3, "an upload that was left");
        test.clock.advance(Duration::from_secs(18 * 3600));
        // Whoever asks for a blob is about to name it.
        let asked_for = pushed(&client, "app", b"asked for").await;
        test.app.registry.tend().await.unwrap();
        client.get(&format!("/v2/app/blobs/{loose}")).await.expect(404);
        client.get(&format!("/v2/app/blobs/{layer}")).await.expect(200);
        test.clock.advance(Duration::from_secs(23 * 3600));
        client.send(Method::HEAD, &format!("/v2/app/blobs/{asked_for}"), "").await.expect(200);
        test.clock.advance(Duration::from_secs(23 * 3600));
        test.app.registry.tend().await.unwrap();
        client.get(&format!("/v2/app/blobs/{asked_for}")).await.expect(200);

        // A tag is in use for a month after its image was.
        test.clock.advance(Duration::from_secs(25 * 24 * 3600));
        test.app.registry.tend().await.unwrap();
        client.get("/v2/app/manifests/1").await.expect(200);
        test.clock.advance(Duration::from_secs(29 * 24 * 3600));
        test.app.registry.tend().await.unwrap();
        assert_eq!(client.get(&format!("/v2/app/blobs/{layer}")).await.expect(200).body, b"layer");
        // That looked at its blob, not at itself.
        test.clock.advance(Duration::from_secs(2 * 24 * 3600));
        test.app.registry.tend().await.unwrap();
        client.get("/v2/app/manifests/1").await.expect(404);
        test.app.registry.tend().await.unwrap();
        assert!(parts(&test).is_empty(), "{:?}", parts(&test));
    }
}

/// A layer with one file, gzipped, and its digest without that.
fn layer() -> (Vec<u8>, String) {
    let text = b"root:x:0:0::/root:/bin/sh\n";
    let mut header = [0_u8; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, "etc/passwd");
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", text.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(text);
    tar.resize(512 * 2 + 1024, 0);
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&tar).unwrap();
    (packed.finish().unwrap(), digest(&tar))
}

/// Pushes an image with one layer.
async fn push_image(client: &Client, repository: &str, tag: &str) {
    let (packed, plain) = layer();
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Env": ["FLAVOUR=plain"] },
        "rootfs": { "type": "layers", "diff_ids": [plain] } });
    let config = pushed(client, repository, config.to_string().as_bytes()).await;
    let size = packed.len();
    let layer = pushed(client, repository, &packed).await;
    let mut image = image_of(&config, &[&layer]);
    image["layers"][0]["size"] = json!(size);
    tagged(client, &format!("/v2/{repository}/manifests/{tag}"), IMAGE, &image).await.expect(201);
}

async fn ended(client: &Client, template: &str, build: &str) -> Value {
    loop {
        let now = client.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(200).json();
        if matches!(now["status"].as_str(), Some("ready" | "error")) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_older_command_lines_build_begins_with_what_was_pushed_for_it() {
    for db in databases().await {
        let test = app(db).await;
        let (_, agent) = test.fleet.add_host();
        let client = &test.client;
        let wish =
            json!({ "alias": "mine:v1", "dockerfile": "FROM x", "startCmd": "serve", "cpuCount": 2, "memoryMB": 768 });
        let asked = client.post("/e2b/templates", wish).await.expect(202).json();
        assert_eq!((&asked["aliases"], &asked["buildStatus"]), (&json!(["mine"]), &json!("waiting")), "{asked}");
        let (template, build) = (asked["templateID"].as_str().unwrap(), asked["buildID"].as_str().unwrap());
        let begin = format!("/e2b/templates/{template}/builds/{build}");
        let told = client.post(&begin, json!({})).await.expect(400).json();
        assert!(told["message"].as_str().unwrap().contains("e2b/custom-envs"), "{told}");
        push_image(&docker(client), &format!("e2b/custom-envs/{template}"), build).await;
        test.another_team().await.post(&begin, json!({})).await.expect(404);
        client.post(&begin, json!({})).await.expect(202);
        client.post(&begin, json!({})).await.expect(409);
        let end = ended(client, template, build).await;
        assert_eq!(end["status"], "ready", "{end}");
        let made: Value = client.post("/v1/sandboxes", json!({ "template": "mine:v1" })).await.expect(201).json();
        let spec = agent.spec_of(&made["id"].as_str().unwrap().parse().unwrap()).unwrap();
        assert_eq!((spec.default_user.as_str(), spec.startup.cmd.as_str(), spec.vcpus), ("user", "serve", 2));
        assert_eq!(spec.env.get("FLAVOUR").map(String::as_str), Some("plain"));

        // Once more, by its id; and a template without a name.
        let again = client.post(&format!("/e2b/templates/{template}"), json!({ "dockerfile": "FROM x" })).await;
        let again = again.expect(202).json();
        assert_eq!(again["templateID"], json!(template));
        assert_ne!(again["buildID"], json!(build));
        let other = json!({ "alias": "another", "dockerfile": "FROM x" });
        client.post(&format!("/e2b/templates/{template}"), other).await.expect(400);
        client.post("/e2b/templates/base", json!({})).await.expect(403);
        client.post("/e2b/templates/none", json!({})).await.expect(404);
        let nameless = client.post("/e2b/templates", json!({ "dockerfile": "FROM x" })).await.expect(202).json();
        assert!(nameless["names"][0].as_str().unwrap().contains("/template-"), "{nameless}");
        let second = client.post("/e2b/v2/templates", json!({ "alias": "second" })).await.expect(202).json();
        assert_eq!((&second["tags"], &second["aliases"]), (&json!(["default"]), &json!(["second"])), "{second}");
        let (template, build) = (second["templateID"].as_str().unwrap(), second["buildID"].as_str().unwrap());
        push_image(&docker(client), &format!("e2b/custom-envs/{template}"), build).await;
        client.post(&format!("/e2b/templates/{template}/builds/{build}"), json!({})).await.expect(202);
        assert_eq!(ended(client, template, build).await["status"], "ready");
    }
}

#[tokio::test]
async fn a_recipe_begins_with_an_image_that_the_team_has_pushed() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        push_image(&docker(&test.client), "team/app", "1").await;
        let client = test.client.with("host", "atoll.lan:7420");
        for (body, good) in [
            (json!({ "name": "one", "image": "atoll.lan:7420/team/app:1" }), true),
            (json!({ "name": "two", "recipe": "FROM atoll.lan:7420/team/app:1\nRUN true" }), true),
            (json!({ "name": "none", "image": "atoll.lan:7420/team/app:2" }), false),
        ] {
            let made = client.post("/v1/templates", body).await.expect(202).json();
            let (template, build) = (made["template"]["id"].as_str().unwrap(), made["build"]["id"].as_str().unwrap());
            let end = ended(&client, template, build).await;
            assert_eq!(end["status"], if good { "ready" } else { "error" }, "{end}");
            assert!(good || end["reason"]["message"].as_str().unwrap().contains("nothing was pushed"), "{end}");
        }
        // Another team's name for it leads to what that team has pushed.
        let other = test.another_team().await.with("host", "atoll.lan:7420");
        let wish = json!({ "name": "one", "image": "atoll.lan:7420/team/app:1" });
        let made = other.post("/v1/templates", wish).await.expect(202).json();
        let (template, build) = (made["template"]["id"].as_str().unwrap(), made["build"]["id"].as_str().unwrap());
        assert_eq!(ended(&other, template, build).await["status"], "error");
    }
}
