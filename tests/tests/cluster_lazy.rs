//! Sandboxes start on a host before all of their image is there: what they read comes first. Whatever happens to the
//! agent, to control or to the link meanwhile, nothing is read that is not right.

use std::path::PathBuf;

use atoll_client::command;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::templates::{BuildStatus, CreateTemplateRequest};
use atoll_model::{HostStatus, SandboxId};
use atoll_tests::cluster::{Cluster, Manners, Proxy, Reach, tiny};
use atoll_tests::until;

/// Of the template's own files.
const BYTES: usize = 12 * (10 << 20);
/// As much passes in a second that a tenth of the image takes a while.
const NARROW: Manners = Manners::Narrow(1 << 20);
const SUMS: &str = "cd /srv && sha256sum large-*";

/// A cluster whose first host has built a large template, and whose second, behind a narrow link, has never seen it.
async fn cluster_with_template() -> (Cluster, Proxy) {
    let mut cluster = Cluster::start_with(1, 0, &[]).await;
    cluster.add_host_with(Reach::Address, &[("ATOLL_POOL_SIZE", "8G")]).await;
    cluster.wait_host(0, HostStatus::Online).await;
    cluster.wait_ready().await;
    let recipe = "FROM base\nRUN for n in 0 1 2 3 4 5 6 7 8 9 a b; do head -c 10M /dev/urandom > /srv/large-$n; done; \
        echo first > /srv/small\n";
    let request = CreateTemplateRequest {
        name: "large".to_owned(),
        recipe: Some(recipe.to_owned()),
        ..CreateTemplateRequest::default()
    };
    let started = cluster.client.build_template(&request).await.expect("a build");
    until("the build to end", || async {
        let build = cluster.client.get_build(started.template.id.as_str(), &started.build.id).await.ok()?;
        assert!(!matches!(build.status, BuildStatus::Error | BuildStatus::Cancelled), "{build:?}");
        (build.status == BuildStatus::Ready).then_some(())
    })
    .await;
    let objects = cluster.controls[0].data_dir().join("objects");
    until("its files to be in the object store", || async {
        let large = |path: &PathBuf| {
            path.extension().is_some_and(|it| it == "zst") && path.metadata().is_ok_and(|it| it.len() as usize > BYTES)
        };
        let all = std::fs::read_dir(&objects).ok()?.flatten().map(|entry| entry.path());
        all.filter(large).any(|path| path.with_extension("idx").exists()).then_some(())
    })
    .await;
    let proxy = cluster.proxy().await;
    cluster.add_host_behind(&proxy).await;
    cluster.admin.drain_host(&cluster.hosts[0].id, true).await.expect("draining");
    (cluster, proxy)
}

fn from_template() -> CreateSandboxRequest {
    CreateSandboxRequest { template: Some("large".to_owned()), ..tiny() }
}

async fn create(cluster: &Cluster, request: &CreateSandboxRequest) -> SandboxId {
    let made = until("a sandbox", || async {
        cluster.client.create_sandbox(request).await.inspect_err(|error| println!("none yet: {error}")).ok()
    })
    .await;
    made.id
}

/// What the files hold, by the host that has made them.
async fn truth(cluster: &Cluster) -> String {
    for (host, draining) in [(0, false), (1, true)] {
        cluster.admin.drain_host(&cluster.hosts[host].id, draining).await.expect("draining");
    }
    let id = create(cluster, &from_template()).await;
    let sums = cluster.sh(&id, SUMS).await;
    assert_eq!(sums.lines().count(), 12, "{sums}");
    cluster.client.destroy_sandbox(&id).await.expect("destroying");
    sums
}

/// Until the sandbox has read everything.
async fn sums(cluster: &Cluster, id: &SandboxId) -> String {
    until("all files to be read", || async {
        let answer = cluster.client.exec(id, &command("/bin/cat", ["/tmp/sums"])).await.ok()?;
        (answer.stdout.lines().count() == 12).then_some(answer.stdout)
    })
    .await
}

/// Until nothing on the second host is incomplete, and nobody holds it.
async fn until_whole(cluster: &Cluster) {
    let data = cluster.hosts[1].node.data_dir();
    until("the image to be whole", || async {
        let fetched = std::fs::read_dir(data.join("fetched")).ok()?.flatten();
        let whole = fetched.filter(|entry| entry.metadata().is_ok_and(|it| it.len() as usize > BYTES)).count() == 1;
        (whole && !data.join("lazy/holder.sock").exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_answers_before_a_tenth_of_its_image_came_and_reads_what_is_right_whatever_happens() {
    let (mut cluster, proxy) = cluster_with_template().await;
    proxy.behave(NARROW);
    let before = proxy.passed();
    let id = create(&cluster, &from_template()).await;
    assert_eq!(cluster.sh(&id, "cat /srv/small").await, "first\n");
    let came = proxy.passed() - before;
    assert!(came < BYTES / 10, "{came} bytes of {BYTES} came before the first answer");

    // The agent dies while a reader waits; the next one gives it what is right.
    let reading = command("/bin/bash", ["-c", &format!("({SUMS}) > /tmp/new; mv /tmp/new /tmp/sums")]);
    cluster.client.exec_background(&id, &reading).await.expect("a reader");
    let asked = proxy.asked();
    until("something to be asked for", || async { (proxy.asked() > asked).then_some(()) }).await;
    cluster.hosts[1].node.kill_9();
    cluster.hosts[1].node.run(&[]);
    cluster.wait_host(1, HostStatus::Online).await;
    assert!(
        !cluster.hosts[1]
            .node
            .data_dir()
            .join("fetched")
            .read_dir()
            .expect("a directory")
            .any(|it| { it.is_ok_and(|it| it.metadata().is_ok_and(|it| it.len() as usize > BYTES)) })
    );
    // Control is away for a while.
    proxy.behave(Manners::Says(502, "away"));
    let asked = proxy.asked();
    until("the agent to ask in vain", || async { (proxy.asked() > asked + 3).then_some(()) }).await;
    proxy.behave(Manners::Honest);
    let read = sums(&cluster, &id).await;
    until_whole(&cluster).await;
    cluster.client.destroy_sandbox(&id).await.expect("destroying");
    assert_eq!(read, truth(&cluster).await);

    let mark = cluster.hosts[1].node.mark();
    cluster.hosts[1].node.terminate().await;
    assert_eq!(mark.left(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reads_of_its_image_what_is_not_there_yet() {
    let (cluster, proxy) = cluster_with_template().await;
    proxy.behave(NARROW);
    let request = CreateSandboxRequest {
        driver: Some("vm".to_owned()),
        memory_mb: Some(256),
        disk_mb: Some(512),
        ..from_template()
    };
    let before = proxy.passed();
    let id = create(&cluster, &request).await;
    assert_eq!(cluster.sh(&id, "cat /srv/small").await, "first\n");
    let came = proxy.passed() - before;
    assert!(came < BYTES / 2, "{came} bytes of {BYTES} came before the first answer");
    proxy.behave(Manners::Honest);
    let read = cluster.sh(&id, SUMS).await;
    until_whole(&cluster).await;
    cluster.client.destroy_sandbox(&id).await.expect("destroying");
    assert_eq!(read, truth(&cluster).await);
}
