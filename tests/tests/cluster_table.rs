//! The host monitor's truth table on a real host with real sandboxes: control's rows are set to each view of the table,
//! the host has what it has, and what comes of it is what the table says. What happens to the host's own view by lost
//! contact (`host_disconnected`) is in `cluster_partition` and `cluster_contact`.

use atoll_client::AuditFilter;
use atoll_model::SandboxStatus::{self, Error, Paused, Running, Stopped};
use atoll_model::{HostStatus, SandboxId};
use atoll_tests::cluster::{Cluster, Reach, tiny};
use atoll_tests::until;

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Running,
    Paused,
    /// Its processes are gone.
    Exited,
    Nothing,
}

struct Case {
    view: &'static str,
    there: There,
    becomes: SandboxStatus,
    reason: Option<&'static str>,
}

const fn case(view: &'static str, there: There, becomes: SandboxStatus, reason: Option<&'static str>) -> Case {
    Case { view, there, becomes, reason }
}

/// `view` is what control believes, with its reason after a colon.
const CASES: [Case; 20] = [
    case("missing", There::Running, Running, None),
    case("missing", There::Paused, Paused, Some("user")),
    case("missing", There::Exited, Stopped, None),
    case("missing", There::Nothing, Stopped, Some("lost")),
    case("running", There::Paused, Paused, Some("user")),
    case("running", There::Exited, Stopped, None),
    case("running", There::Nothing, Stopped, Some("lost")),
    case("paused:host_disconnected", There::Running, Running, None),
    case("paused", There::Exited, Stopped, None),
    case("paused", There::Nothing, Error, Some("snapshot_lost")),
    case("error", There::Running, Running, None),
    case("error", There::Paused, Paused, Some("user")),
    case("pending", There::Nothing, Error, Some("pending_interrupted")),
    case("starting", There::Running, Running, None),
    case("starting", There::Nothing, Error, Some("starting_interrupted")),
    case("pausing", There::Running, Running, None),
    case("pausing", There::Paused, Paused, Some("user")),
    case("pausing", There::Exited, Stopped, None),
    case("resuming", There::Paused, Paused, Some("user")),
    case("resuming", There::Running, Running, None),
];

/// Ends the process that is everything's parent in a sandbox, as the kernel does when it runs out of memory.
fn end_from_outside(cluster: &Cluster, host: usize, id: &SandboxId) {
    let pids = cluster.hosts[host].node.mark().processes_of(id);
    assert!(!pids.is_empty(), "no process of {id} was found");
    for pid in pids {
        // SAFETY: kill has no memory effects; the pids are those of this test's own sandbox.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

#[tokio::test]
async fn every_row_of_the_truth_table_holds_on_a_real_host() {
    let mut cluster = Cluster::start_with(1, 0, &[("ATOLL_CPU_OVERCOMMIT", "1000")]).await;
    // Contact is lost for a moment while the views are set: that must not be one of them.
    let host = cluster.add_host_with(Reach::Address, &[("ATOLL_ON_DISCONNECT", "keep-running")]).await;
    cluster.wait_host(host, HostStatus::Online).await;
    let mut ids = Vec::new();
    for _ in 0..CASES.len() + 2 {
        let made = until("a sandbox", || async { cluster.client.create_sandbox(&tiny()).await.ok() }).await;
        ids.push(made.id);
    }
    let (stopped, unknown) = (ids.pop().expect("one more"), ids.pop().expect("one more"));
    for (id, case) in ids.iter().zip(&CASES) {
        match case.there {
            There::Running | There::Exited => {}
            There::Paused => drop(cluster.client.pause_sandbox(id).await.expect("pausing")),
            // Destroyed on the host by control's own order: its row is what is set below.
            There::Nothing => cluster.client.destroy_sandbox(id).await.expect("destroying"),
        }
    }
    // Nobody judges anything until all is as it shall be.
    cluster.controls[0].freeze();
    for (id, _) in ids.iter().zip(&CASES).filter(|(_, case)| case.there == There::Exited) {
        end_from_outside(&cluster, host, id);
    }
    // All views at once, and as old as it takes for nobody to be expected to finish them.
    let mut script = String::from("BEGIN;");
    for (id, case) in ids.iter().zip(&CASES) {
        let (status, reason) = case.view.split_once(':').unwrap_or((case.view, "set_by_the_test"));
        script.push_str(&format!(
            "UPDATE sandboxes SET status = '{status}', reason = '{reason}', status_changed_at = status_changed_at - 60000
             WHERE id = '{id}';"
        ));
    }
    script.push_str(&format!(
        "UPDATE sandboxes SET status = 'stopped', generation = generation + 1 WHERE id = '{stopped}';
         DELETE FROM sandboxes WHERE id = '{unknown}'; COMMIT;"
    ));
    cluster.postgres.query(&script);
    cluster.controls[0].thaw();

    for (id, case) in ids.iter().zip(&CASES) {
        let what = format!("{} and {:?} there to become {} ({:?})", case.view, case.there, case.becomes, case.reason);
        until(&what, || async {
            let now = cluster.client.get_sandbox(id).await.ok()?;
            let reason = case.reason.is_none_or(|reason| now.reason.as_deref() == Some(reason));
            (now.status == case.becomes && reason).then_some(())
        })
        .await;
    }
    // What control stopped, or has never heard of, is destroyed, and that is written down.
    let audit = AuditFilter { action: Some("sandbox.destroy_orphan".to_owned()), all: true, ..AuditFilter::default() };
    for orphan in [&stopped, &unknown] {
        until(&format!("the orphan {orphan} to be destroyed"), || async {
            let entries = cluster.admin.audit_log(&audit).await.ok()?.items;
            entries.iter().any(|entry| entry.resource_id.as_deref() == Some(orphan.as_str())).then_some(())
        })
        .await;
    }
    let running = CASES.iter().filter(|case| case.becomes == Running).count();
    let paused = CASES.iter().filter(|case| case.becomes == Paused).count();
    until("the host to have what the table leaves", || async {
        let counts = cluster.host(host).await.sandbox_counts;
        ((counts.running as usize, counts.paused as usize, counts.other) == (running, paused, 0)).then_some(())
    })
    .await;
    for (id, _) in ids.iter().zip(&CASES).filter(|(_, case)| case.becomes == Running) {
        assert_eq!(cluster.sh(id, "echo alive").await, "alive\n");
    }
}
