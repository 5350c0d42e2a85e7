//! Spares, and those who take them over.

use super::*;
use crate::sandboxes::machine::Life;
use atoll_model::VolumeId;

/// A sandbox that is to be made of this spare, with the volume that it gets from above.
pub(super) fn heir(fixture: &Fixture, spare: &LaunchSpec) -> LaunchSpec {
    let spec = fixture.spec();
    fs::remove_dir(&spec.volume).unwrap();
    fs::rename(&spare.volume, &spec.volume).unwrap();
    LaunchSpec { slot: spare.slot, role: Role::TakesOver(spare.id.clone()), ..spec }
}

pub(super) fn spare(fixture: &Fixture) -> LaunchSpec {
    LaunchSpec { role: Role::Spare, hostname: "spare".to_owned(), ..fixture.spec() }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_becomes_a_sandbox_that_knows_nothing_of_it_and_lives_as_any_other() {
    let fixture = Fixture::new();
    let spare = spare(&fixture);
    let standing = fixture.launch(&spare).await.unwrap();
    let life: &dyn Life = &standing;
    assert!(life.is_alive() && fixture.driver.owns(&spare.id));
    let spec = heir(&fixture, &spare);
    let startup = serde_json::json!({ "cmd": "cat /proc/sys/kernel/hostname > /root/started", "user": "root" });
    let guest_config = serde_json::json!({ "sandbox_id": spec.id.as_str(), "startup": startup, "env": { "A": "own" } });
    let spec = LaunchSpec { hostname: "heir".to_owned(), guest_config, ..spec };
    let (running, step) = fixture.launch_in_steps(&spec).await;
    let running = running.unwrap();
    assert_eq!((step, &running.init), ("take over", &standing.init));

    // It is itself, with its own time, and what it begins with has begun.
    assert_eq!(ok(&spec, "cat /etc/hostname; cat /proc/sys/kernel/hostname; echo $A").await, "heir\nheir\nown");
    let within = ok(&spec, "date +%s").await.parse::<u64>().unwrap();
    assert!(now().abs_diff(within) <= 2, "{within}");
    until(|| run(&spec.socket_path, "cat /root/started") == (0, "heir\n".to_owned())).await;
    let seen = ok(&spec, "cat /etc/hosts /etc/machine-id /run/e2b/.E2B_SANDBOX_ID; ls -A /root /tmp").await;
    assert!(!seen.contains("spare") && !seen.contains(spare.id.as_str()), "{seen}");
    // No word of the rehearsal.
    let logs = logs(&spec.socket_path);
    assert!(logs.contains(spec.id.as_str()) && !logs.contains(spare.id.as_str()), "{logs}");
    assert!(!logs.contains("/bin/echo"), "{logs}");

    // Nothing is left under the spare's name, and whoever means it does the sandbox no harm.
    assert!(!fixture.driver.owns(&spare.id) && fixture.driver.owns(&spec.id));
    assert_eq!(fixture.driver.leftovers(), std::slice::from_ref(&spec.id));
    fixture.driver.clean_up(&spare.id).await.unwrap();
    assert!(running.is_alive());
    assert!(fixture.driver.usage(&spec.id).unwrap().memory_bytes > 16 << 20);

    // A new agent finds it by its own name.
    ok(&spec, "echo kept > /root/file; sleep 1000 > /dev/null 2>&1 &").await;
    let another = fixture.another();
    assert_eq!(another.leftovers(), std::slice::from_ref(&spec.id));
    assert!(another.adopt(&spec.id, &running.init, Vec::new()).await.is_some());
    fixture.driver.shared.bridges().clear();
    assert_eq!(ok(&spec, "cat /root/file").await, "kept");

    // It is paused, and goes on as it was, now under its own name everywhere.
    another.pause(&spec.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());
    let spec = LaunchSpec { role: Role::Sandbox, ..spec };
    let mut steps = Steps::new();
    another.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
    assert!(steps.as_slice().iter().any(|step| step.name == RESTORED));
    assert_eq!(ok(&spec, "cat /root/file /proc/sys/kernel/hostname").await, "kept\nheir");
    assert!(!spec.socket_path.with_file_name(GROUP).exists());
    another.clean_up(&spec.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_does_first_finds_the_volumes_of_who_takes_it_over() {
    let fixture = Fixture::new();
    let data = fixture.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let pool = Pool::open(&data, &PoolOptions { reserve: 1 << 20, ..PoolOptions::default() }).unwrap();
    let id = VolumeId::new();
    let source = pool.shared_volume(&id, 64 << 20).unwrap();
    let spare = spare(&fixture);
    fixture.launch(&spare).await.unwrap();
    let spec = heir(&fixture, &spare);
    let startup = serde_json::json!({ "cmd": "echo begun > begun", "user": "root", "cwd": "/mnt/data" });
    let volume =
        SharedVolume { id, source: source.clone(), bytes: 64 << 20, path: "/mnt/data".to_owned(), read_only: false };
    let guest_config = serde_json::json!({ "sandbox_id": spec.id.as_str(), "startup": startup });
    let spec = LaunchSpec { volumes: vec![volume], guest_config, ..spec };
    fixture.launch(&spec).await.unwrap();
    until(|| fs::read(source.join("begun")).is_ok_and(|text| text == b"begun\n")).await;
    fixture.driver.clean_up(&spec.id).await.unwrap();
    assert!(pool.close().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_there_or_dead_is_not_taken_over_and_nothing_is_left_of_it() {
    let fixture = Fixture::new();
    let unknown = LaunchSpec { role: Role::TakesOver(SandboxId::new()), ..fixture.spec() };
    assert!(fixture.launch(&unknown).await.is_err());
    let spare = spare(&fixture);
    let standing = fixture.launch(&spare).await.unwrap();
    let spec = heir(&fixture, &spare);
    fixture.driver.shared.cgroups.kill(spare.id.as_str()).unwrap();
    let life: &dyn Life = &standing;
    until(|| !life.is_alive()).await;
    let error = fixture.launch(&spec).await.unwrap_err();
    assert!(error.to_string().contains("taking over a spare"), "{error}");
    assert_eq!(fixture.leavings(), Vec::<String>::new());
    // The sandbox starts as any other then.
    fs::remove_dir_all(&spec.volume).unwrap();
    fs::create_dir(&spec.volume).unwrap();
    let spec = LaunchSpec { role: Role::Sandbox, ..spec };
    fixture.launch(&spec).await.unwrap();
    assert_eq!(ok(&spec, "cat /etc/hostname").await, "island");
    fixture.driver.clean_up(&spec.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_while_one_is_taken_over_nothing_is_left() {
    let fixture = Fixture::new();
    for point in ["vm::spare::named", "vm::spare::moved", "vm::spare::goes_on"] {
        let spare = spare(&fixture);
        fixture.launch(&spare).await.unwrap();
        let spec = heir(&fixture, &spare);
        fail::cfg(point, "return").unwrap();
        let launched = fixture.launch(&spec).await;
        fail::remove(point);
        assert!(launched.is_err(), "{point}");
        assert_eq!(fixture.leavings(), Vec::<String>::new(), "{point}");
        assert!(!fixture.driver.owns(&spec.id) && !fixture.driver.owns(&spare.id));
    }
}

/// All that the guest agent has logged.
fn logs(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = "POST /atoll.guest.v1.GuestService/Logs HTTP/1.1\r\nhost: guest\r\nx-atoll-trusted: 1\r\n\
                content-type: application/json\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
