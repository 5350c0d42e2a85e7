//! Templates: built from recipes in real sandboxes, and from images of a registry.

use std::path::Path;

use atoll_client::Error;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::templates::{BuildLogLine, BuildStatus, CreateTemplateRequest, RegistryLogin, StartedBuild};
use atoll_tests::registry::{PASSWORD, ROOT, Registry, USER, archive};
use atoll_tests::{Atoll, until};

async fn start(atoll: &Atoll, request: &CreateTemplateRequest) -> StartedBuild {
    match atoll.client().build_template(request).await {
        Ok(started) => started,
        Err(error) => panic!("{error}\n{}", atoll.log()),
    }
}

/// Builds to the end; the status, the reason and the log.
async fn built(atoll: &Atoll, request: &CreateTemplateRequest) -> (BuildStatus, Option<String>, Vec<BuildLogLine>) {
    let started = start(atoll, request).await;
    let (mut lines, mut ended) = (Vec::new(), None);
    let name = started.template.id.to_string();
    let follow = atoll.client().follow_build(&name, &started.build.id, |event, data| match event {
        "log" => lines.push(serde_json::from_str(data).expect("a line")),
        _ => ended = Some(serde_json::from_str::<atoll_model::api::templates::Build>(data).expect("a build")),
    });
    follow.await.expect("the log");
    let ended = ended.expect("an end");
    (ended.status, ended.reason, lines)
}

fn recipe(name: &str, text: &str) -> CreateTemplateRequest {
    CreateTemplateRequest { name: name.to_owned(), recipe: Some(text.to_owned()), ..Default::default() }
}

async fn sandbox(atoll: &Atoll, template: &str) -> atoll_model::api::sandboxes::Sandbox {
    let request = CreateSandboxRequest { template: Some(template.to_owned()), ..Default::default() };
    atoll.sandbox_with(request).await
}

fn says(lines: &[BuildLogLine], text: &str) -> bool {
    lines.iter().any(|line| line.message.contains(text))
}

#[tokio::test]
async fn a_recipe_becomes_a_template_and_unchanged_steps_are_not_built_again() {
    let atoll = Atoll::start().await;
    let files = archive(&atoll.scratch(), "mkdir -p app/sub; echo main > app/main.txt; echo deep > app/sub/deep.txt");
    let hash = "c".repeat(64);
    atoll.client().upload_template_files(&hash, files.into()).await.expect("upload");
    let text = |last: &str| {
        format!(
            "FROM base\nENV COLOUR=blue SIZE=\"very large\"\nRUN echo $COLOUR $SIZE > /opt/colour; date +%N > /opt/when\n\
             WORKDIR /srv/work\nCOPY --chown=user --chmod=750 app ./\nRUN chown user .\nUSER user\nRUN id -un > who; pwd > where\nRUN echo {last} > last\n"
        )
    };
    let request = |last: &str| CreateTemplateRequest { context: Some(hash.clone()), ..recipe("mine", &text(last)) };
    let (status, reason, lines) = built(&atoll, &request("first")).await;
    assert_eq!((status, reason), (BuildStatus::Ready, None), "{lines:?}\n{}", atoll.log());
    let one = sandbox(&atoll, "mine").await;
    let look =
        "id -un; pwd; cat /opt/colour who where last main.txt sub/deep.txt; stat -c '%U %a' main.txt; echo $COLOUR";
    let answer = atoll.sh(&one.id, look).await;
    assert_eq!(
        answer.stdout, "user\n/srv/work\nblue very large\nuser\n/srv/work\nfirst\nmain\ndeep\nuser 750\nblue\n",
        "{answer:?}"
    );
    let when = atoll.sh(&one.id, "cat /opt/when").await.stdout;
    // Another last step: all that came before is taken as it was.
    let (status, _, lines) = built(&atoll, &request("second")).await;
    assert_eq!(status, BuildStatus::Ready, "{lines:?}");
    assert!(says(&lines, "as it was built before"), "{lines:?}");
    let two = sandbox(&atoll, "mine").await;
    assert_eq!(atoll.sh(&two.id, "cat last /opt/when").await.stdout, format!("second\n{when}"));
    // Anew, if somebody wants it so.
    let (status, ..) = built(&atoll, &CreateTemplateRequest { force: true, ..request("second") }).await;
    assert_eq!(status, BuildStatus::Ready);
    let three = sandbox(&atoll, "mine").await;
    assert_ne!(atoll.sh(&three.id, "cat /opt/when").await.stdout, when);
    // Sandboxes of builds are nobody's, and gone.
    let listed = atoll.client().list_sandboxes(&atoll_client::ListSandboxes::default()).await.expect("list").items;
    assert_eq!(listed.len(), 3);
    atoll.client().delete_template("mine").await.expect("delete");
    assert!(matches!(atoll.client().get_template("mine").await, Err(Error::Api(error)) if error.status == 404));
    atoll.assert_well(&three.id).await;
    assert!(matches!(atoll.client().delete_template("base").await, Err(Error::Api(error)) if error.status == 403));
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_failed_and_a_cancelled_build_say_where_and_leave_the_template_as_it_was() {
    let atoll = Atoll::start().await;
    let (status, ..) = built(&atoll, &recipe("tool", "FROM base\nRUN echo good > /opt/state\n")).await;
    assert_eq!(status, BuildStatus::Ready);
    let (status, reason, lines) =
        built(&atoll, &recipe("tool", "FROM base\nRUN echo bad > /opt/state\nRUN echo so it goes >&2; exit 7\n")).await;
    assert_eq!(status, BuildStatus::Error);
    assert!(reason.expect("a reason").contains("exit status 7") && says(&lines, "so it goes"), "{lines:?}");
    let started = start(&atoll, &recipe("tool", "FROM base\nRUN sleep 600\n")).await;
    let name = started.template.id.to_string();
    until("the build to be at its step", || async {
        let build = atoll.client().get_build(&name, &started.build.id).await.ok()?;
        (build.status == BuildStatus::Building).then_some(())
    })
    .await;
    atoll.client().cancel_build(&name, &started.build.id).await.expect("cancel");
    until("the build to be cancelled", || async {
        let build = atoll.client().get_build(&name, &started.build.id).await.ok()?;
        (build.status == BuildStatus::Cancelled).then_some(())
    })
    .await;
    let made = sandbox(&atoll, "tool").await;
    assert_eq!(atoll.sh(&made.id, "cat /opt/state").await.stdout, "good\n");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_build_that_its_server_does_not_survive_ends_and_leaves_nothing() {
    let mut atoll = Atoll::start().await;
    let started = start(&atoll, &recipe("cut", "FROM base\nRUN sleep 600\n")).await;
    let name = started.template.id.to_string();
    until("the build to be at its step", || async {
        let build = atoll.client().get_build(&name, &started.build.id).await.ok()?;
        (build.status == BuildStatus::Building).then_some(())
    })
    .await;
    atoll.kill_9();
    atoll.start_again().await;
    let build = until("the build to have ended", || async {
        let build = atoll.client().get_build(&name, &started.build.id).await.ok()?;
        (build.status == BuildStatus::Error).then_some(build)
    })
    .await;
    assert!(build.reason.expect("a reason").contains("interrupted"));
    let request = CreateSandboxRequest { template: Some("cut".to_owned()), ..Default::default() };
    assert!(matches!(atoll.client().create_sandbox(&request).await, Err(Error::Api(error)) if error.status == 409));
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn an_image_of_a_registry_becomes_a_template_and_a_spoiled_one_does_not() {
    let registry = Registry::start();
    let atoll = Atoll::start_with(&["--registry-allow", &registry.address()], &[]).await;
    let scratch = atoll.scratch();
    let upper =
        "mkdir srv; touch srv/.wh.old; echo new > srv/new; chown -R 4000:4000 srv; mkdir -p dev; mknod dev/null2 c 1 3";
    let layers = [archive(&scratch, ROOT), archive(&scratch, upper)];
    let settings = r#"{"User":"4000","WorkingDir":"/srv","Env":["PATH=/bin","FLAVOUR=plain"]}"#;
    registry.push("1", &layers, settings);
    let image = format!("{}/test/app:1", registry.address());
    let request = |name: &str, image: &str| CreateTemplateRequest {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        registry: Some(RegistryLogin { username: USER.to_owned(), password: PASSWORD.to_owned() }),
        ..Default::default()
    };
    let (status, reason, lines) = built(&atoll, &request("app", &image)).await;
    assert_eq!((status, reason), (BuildStatus::Ready, None), "{lines:?}");
    let made = sandbox(&atoll, "app").await;
    let run = |script: &'static str, user: Option<&'static str>| {
        let mut request = atoll_client::command("/bin/sh", ["-c", script]);
        request.user = user.map(str::to_owned);
        let (atoll, id) = (&atoll, made.id.clone());
        async move { atoll.client().exec(&id, &request).await.expect("exec") }
    };
    let answer = run("id -un; pwd; ls; cat kept new; echo $FLAVOUR; ls /dev/null2", None).await;
    assert_eq!(answer.stdout, "worker\n/srv\nkept\nnew\nkept\nnew\nplain\n", "{answer:?}");
    let answer = run("touch /root/x && ls -ln /srv/kept && id -u", Some("root")).await;
    assert!(answer.stdout.contains(" 4000 4000 ") && answer.stdout.ends_with("0\n"), "{answer:?}");
    // A recipe on top of it; what was pulled is not pulled again.
    let before = registry.requests().iter().filter(|path| path.contains("/blobs/")).count();
    let on_top = CreateTemplateRequest {
        registry: request("x", "x").registry,
        ..recipe("more", &format!("FROM {image}\nRUN echo more > /srv/more\n"))
    };
    let (status, reason, lines) = built(&atoll, &on_top).await;
    assert_eq!((status, reason), (BuildStatus::Ready, None), "{lines:?}");
    assert_eq!(registry.requests().iter().filter(|path| path.contains("/blobs/")).count(), before);
    // Nobody gets in without the password, and what is not what it says is refused.
    registry.push("2", &[archive(&scratch, &format!("{ROOT}\necho two > srv/two"))], settings);
    let stranger =
        CreateTemplateRequest { registry: None, ..request("none", &format!("{}/test/app:2", registry.address())) };
    let (status, reason, _) = built(&atoll, &stranger).await;
    assert_eq!(status, BuildStatus::Error);
    assert!(reason.expect("a reason").contains("401"));
    registry.spoil();
    let (status, reason, _) = built(&atoll, &request("spoiled", &format!("{}/test/app:2", registry.address()))).await;
    assert_eq!(status, BuildStatus::Error);
    assert!(reason.expect("a reason").contains("digest"));
    assert!(!Path::new("/dev/null2").exists());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_registry_at_a_private_address_is_asked_only_if_the_operator_allows_it() {
    let registry = Registry::start();
    let atoll = Atoll::start().await;
    let request = CreateTemplateRequest {
        name: "inner".to_owned(),
        image: Some(format!("{}/test/app:1", registry.address())),
        ..Default::default()
    };
    let (status, reason, _) = built(&atoll, &request).await;
    assert_eq!(status, BuildStatus::Error);
    assert!(reason.expect("a reason").contains("--registry-allow"));
    assert!(registry.requests().is_empty());
    atoll.stop_and_check().await;
}

/// Built in a container, stored, and started in machines alone.
#[tokio::test]
async fn a_template_for_machines_is_built_in_a_container_and_starts_machines() {
    let atoll = Atoll::start_with(&[], &[("ATOLL_DRIVER", "auto")]).await;
    let mut request = recipe("mine", "FROM base\nRUN echo made > /opt/made\nRUN echo more > /opt/more");
    request.driver = Some("vm".to_owned());
    request.memory_mb = Some(256);
    let (status, reason, lines) = built(&atoll, &request).await;
    assert_eq!((status, reason), (BuildStatus::Ready, None), "{lines:?}\n{}", atoll.log());
    assert!(!says(&lines, "virtual machine:"), "{lines:?}");
    let one = sandbox(&atoll, "mine").await;
    assert_eq!(one.driver, "vm");
    assert_eq!(atoll.sh(&one.id, "cat /opt/made /opt/more").await.stdout, "made\nmore\n");
    atoll.stop_and_check().await;
}

/// The start command has run once, in the build; sandboxes go on with what it left, and are others.
#[tokio::test]
async fn a_template_with_memory_has_its_start_command_running_from_the_first_moment() {
    let atoll = Atoll::start_with(&[], &[("ATOLL_DRIVER", "auto")]).await;
    let mut request = recipe(
        "served",
        "FROM base\nUSER user\nCMD cat /proc/sys/kernel/random/uuid > /dev/shm/mark; exec sleep 100000\nREADY test -s /dev/shm/mark",
    );
    request.driver = Some("vm".to_owned());
    request.keep_memory = true;
    request.memory_mb = Some(256);
    request.disk_mb = Some(512);
    let (status, reason, lines) = built(&atoll, &request).await;
    assert_eq!((status, reason), (BuildStatus::Ready, None), "{lines:?}\n{}", atoll.log());
    let (mut marks, mut boots) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let one = sandbox(&atoll, "served").await;
        assert_eq!((one.driver.as_str(), one.kept.as_deref()), ("vm", Some("memory")), "{}", atoll.log());
        let seen = atoll.sh(&one.id, "cat /dev/shm/mark; pgrep -cx sleep").await.stdout;
        assert!(seen.ends_with("\n1\n"), "{seen:?}");
        marks.push(seen);
        boots.push(atoll.sh(&one.id, "cat /proc/sys/kernel/random/boot_id; hostname").await.stdout);
    }
    assert_eq!(marks[0], marks[1], "it has run once");
    assert_ne!(boots[0], boots[1]);
    // Another size begins with the files: there it runs anew.
    let larger = CreateSandboxRequest {
        template: Some("served".to_owned()),
        memory_mb: Some(320),
        ..CreateSandboxRequest::default()
    };
    let larger = atoll.sandbox_with(larger).await;
    assert_eq!(larger.kept.as_deref(), Some("files"));
    let seen = atoll.sh(&larger.id, "cat /dev/shm/mark; pgrep -cx sleep").await.stdout;
    assert!(seen.ends_with("\n1\n") && seen != marks[0], "{seen:?}");
    atoll.stop_and_check().await;
}
