//! Images that are pushed to the server itself, with a client that others have written (skopeo), and what builds make of them.

use std::process::Command;

use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::templates::{BuildStatus, CreateTemplateRequest};
use atoll_tests::s3::S3;
use atoll_tests::skopeo::{Skopeo, image, text};
use atoll_tests::{Atoll, until};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

fn key(atoll: &Atoll) -> String {
    atoll.credentials().api_key.expect("a key").expose_secret().to_owned()
}

/// A request to E2B's dialect, for which there is no client of ours. The status and the body.
fn e2b(atoll: &Atoll, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let credentials = atoll.credentials();
    let url = format!("{}/e2b{path}", credentials.url.trim_end_matches('/'));
    let key = format!("X-API-Key: {}", key(atoll));
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-X", method, "-H", &key, "-w", "\n%{http_code}", &url]);
    if method != "GET" {
        command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    let output = command.output().expect("curl");
    let said = text(&output.stdout);
    let (body, status) = said.rsplit_once('\n').expect("a status");
    (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn pushed_and_run(atoll: &Atoll) {
    let scratch = atoll.scratch();
    let skopeo = Skopeo { atoll, scratch: &scratch };
    let (image, host) = (image(&scratch), skopeo.host());

    // Nobody without a key; then with one, whatever the user is called.
    let to = format!("docker://{host}/team/app:1");
    let refused = skopeo.run(&["copy", "--quiet", "--dest-tls-verify=false", &image, &to]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("authentication"), "{}", text(&refused.stderr));
    let wrong = skopeo.run(&["login", "--tls-verify=false", "-u", "_e2b_access_token", "-p", "atl_wrong", &host]);
    assert!(!wrong.status.success());
    skopeo.sign_in();
    skopeo.copy(&image, &to);
    // What is there is not sent again, and what comes back is what went in.
    skopeo.copy(&image, &format!("docker://{host}/other/name:2"));
    let back = format!("oci:{}:1", scratch.join("back").display());
    skopeo.copy(&format!("docker://{host}/other/name:2"), &back);
    let digest = |of: &str| {
        let said = skopeo.does(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", of]);
        said.trim().to_owned()
    };
    assert_eq!(digest(&image), digest(&back));
    assert_eq!(digest(&to), digest(&image));
    let tags = skopeo.does(&["list-tags", "--tls-verify=false", &format!("docker://{host}/team/app")]);
    let tags: Value = serde_json::from_str(&tags).expect("tags");
    assert_eq!(tags["Tags"], json!(["1"]));

    runs(atoll).await;
}

/// A template of what was pushed, by our own API, and a sandbox of it.
async fn runs(atoll: &Atoll) {
    let host = Skopeo { atoll, scratch: &atoll.scratch() }.host();
    let request = CreateTemplateRequest {
        name: "pushed".to_owned(),
        recipe: Some(format!("FROM {host}/team/app:1\nRUN cat /srv/note > /srv/copy\n")),
        ..Default::default()
    };
    let started = atoll.client().build_template(&request).await.expect("a build");
    until("the build to be ready", || async {
        let build = atoll.client().get_build(started.template.id.as_str(), &started.build.id).await.ok()?;
        assert!(!matches!(build.status, BuildStatus::Error | BuildStatus::Cancelled), "{build:?}\n{}", atoll.log());
        (build.status == BuildStatus::Ready).then_some(())
    })
    .await;
    let request = CreateSandboxRequest { template: Some("pushed".to_owned()), ..Default::default() };
    let made = atoll.sandbox_with(request).await;
    let run = atoll_client::command("/bin/sh", ["-c", "id -un; pwd; cat copy; echo $FLAVOUR"]);
    let answer = atoll.client().exec(&made.id, &run).await.expect("exec");
    assert_eq!(answer.stdout, "worker\n/srv\npushed\nplain\n", "{answer:?}");
}

#[tokio::test]
async fn an_image_that_a_client_pushes_is_what_a_template_begins_with() {
    let atoll = Atoll::start().await;
    pushed_and_run(&atoll).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn an_image_of_layers_compressed_with_zstd_is_pushed_and_run() {
    let atoll = Atoll::start().await;
    let scratch = atoll.scratch();
    let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
    let to = format!("docker://{}/team/app:1", skopeo.host());
    skopeo.sign_in();
    let zstd = ["--dest-compress-format", "zstd"];
    skopeo.does(&[&["copy", "--quiet", "--dest-tls-verify=false"], &zstd[..], &[&image(&scratch), &to]].concat());
    let manifest = skopeo.does(&["inspect", "--raw", "--tls-verify=false", &to]);
    assert_eq!(manifest.matches("application/vnd.oci.image.layer.v1.tar+zstd").count(), 2, "{manifest}");
    runs(&atoll).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn the_same_with_a_bucket_for_a_store() {
    let s3 = S3::start().await;
    let endpoint = format!("http://127.0.0.1:{}", s3.port);
    let env = [
        ("ATOLL_OBJECT_STORE", "s3://images/atoll"),
        ("ATOLL_S3_ENDPOINT", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let atoll = Atoll::start_with(&[], &env).await;
    pushed_and_run(&atoll).await;
    let parts = s3.list().iter().filter(|name| name.starts_with("atoll/blob-")).count();
    assert_eq!(parts, 3, "a configuration and two layers: {:?}", s3.list());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn the_older_command_lines_way_of_building_ends_in_a_template() {
    let atoll = Atoll::start().await;
    let scratch = atoll.scratch();
    let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
    let (image, host) = (image(&scratch), skopeo.host());
    let wish = json!({ "alias": "mine", "dockerfile": "FROM x", "startCmd": "echo up > /tmp/up", "memoryMB": 256 });
    let (status, asked) = e2b(&atoll, "POST", "/templates", &wish);
    assert_eq!(status, 202, "{asked}");
    let (template, build) = (asked["templateID"].as_str().expect("an id"), asked["buildID"].as_str().expect("an id"));
    skopeo.sign_in();
    skopeo.copy(&image, &format!("docker://{host}/e2b/custom-envs/{template}:{build}"));
    let (status, said) = e2b(&atoll, "POST", &format!("/templates/{template}/builds/{build}"), &json!({}));
    assert_eq!(status, 202, "{said}");
    until("the build to be over", || async {
        let (_, now) = e2b(&atoll, "GET", &format!("/templates/{template}/builds/{build}/status"), &Value::Null);
        let status = now["status"].as_str().unwrap_or_default();
        assert_ne!(status, "error", "{now}\n{}", atoll.log());
        (status == "ready").then_some(())
    })
    .await;
    let request = CreateSandboxRequest { template: Some("mine".to_owned()), ..Default::default() };
    let made = atoll.sandbox_with(request).await;
    let run = atoll_client::command("/bin/sh", ["-c", "id -un; pwd; cat /srv/note /tmp/up"]);
    let answer = atoll.client().exec(&made.id, &run).await.expect("exec");
    assert_eq!(answer.stdout, "user\n/home/user\npushed\nup\n", "{answer:?}");
    atoll.stop_and_check().await;
}
