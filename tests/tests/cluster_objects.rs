//! Many replicas with a bucket: what one of them has stored, hosts get through any other.

use atoll_client::command;
use atoll_model::HostStatus;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::templates::{BuildStatus, CreateTemplateRequest};
use atoll_model::sandbox::SandboxStatus;
use atoll_tests::cluster::{Cluster, Reach, tiny};

use atoll_tests::registry::archive;
use atoll_tests::s3::S3;
use atoll_tests::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_template_outlives_the_replica_that_built_it_and_reaches_every_host() {
    let s3 = S3::start().await;
    let endpoint = format!("http://{{gateway}}:{}", s3.port);
    let env = [
        ("ATOLL_OBJECT_STORE", "s3://images/atoll"),
        ("ATOLL_S3_ENDPOINT", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let mut cluster = Cluster::start_with(2, 0, &env).await;
    for host in 0..2 {
        // Builds need some room.
        cluster.add_host_with(Reach::Address, &[("ATOLL_POOL_SIZE", "8G")]).await;
        cluster.wait_host(host, HostStatus::Online).await;
    }
    cluster.wait_ready().await;
    let base = cluster.admin.list_templates(None).await.expect("templates").items;
    let base = base.iter().find(|template| template.name == "base").map(|base| base.digest.clone());
    let base = format!("atoll/{}.erofs.zst", base.expect("an image"));
    assert!(s3.list().contains(&base), "{base} is not among {:?}", s3.list());

    // The files come through one replica, the build runs on the other, in a sandbox on the first host.
    let scratch = tempfile::tempdir().expect("a directory");
    let hash = "d".repeat(64);
    let files = archive(scratch.path(), "mkdir app; echo brought > app/note");
    cluster.client_of(1).upload_template_files(&hash, files.into()).await.expect("upload");
    cluster.admin.drain_host(&cluster.hosts[1].id, true).await.expect("draining");
    let request = CreateTemplateRequest {
        name: "lasting".to_owned(),
        recipe: Some("FROM base\nCOPY app /srv/app\nRUN echo made > /srv/made\n".to_owned()),
        context: Some(hash),
        ..Default::default()
    };
    let started = cluster.client_of(0).build_template(&request).await.expect("a build");
    until("the build to end", || async {
        let build = cluster.client.get_build(started.template.id.as_str(), &started.build.id).await.ok()?;
        assert!(!matches!(build.status, BuildStatus::Error | BuildStatus::Cancelled), "{build:?}");
        (build.status == BuildStatus::Ready).then_some(())
    })
    .await;
    cluster.admin.drain_host(&cluster.hosts[1].id, false).await.expect("undraining");
    // Stored behind everybody's back: what the COPY and the RUN have made, beside the base.
    let images = || s3.list().iter().filter(|name| name.ends_with(".erofs.zst")).count();
    until("its layers to be in the bucket", || async { (images() >= 3).then_some(()) }).await;

    // The replica is gone with all that was its own; the second host has never seen the image.
    cluster.controls[0].kill_9();
    std::fs::remove_dir_all(cluster.controls[0].data_dir().join("objects")).expect("removing its files");
    let (admin, client) = (cluster.admin_of(1), cluster.client_of(1));
    admin.drain_host(&cluster.hosts[0].id, true).await.expect("draining");
    let made = until("a sandbox of it on the second host", || async {
        let request = CreateSandboxRequest { template: Some("lasting".to_owned()), ..tiny() };
        client.create_sandbox(&request).await.inspect_err(|error| println!("no sandbox yet: {error}")).ok()
    })
    .await;
    assert_eq!((made.host_id.as_ref(), made.status), (Some(&cluster.hosts[1].id), SandboxStatus::Running));
    let exec = command("/bin/cat", ["/srv/made", "/srv/app/note"]);
    let answer = client.exec(&made.id, &exec).await.expect("an answer");
    assert_eq!(answer.stdout, "made\nbrought\n", "{answer:?}");
}
