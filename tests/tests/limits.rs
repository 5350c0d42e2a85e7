//! Every limit: one sandbox runs into it, its neighbour goes on working, and it works again itself afterwards.

use atoll_client::command;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest};
use atoll_tests::{Atoll, assert_memory, in_machines};

fn small() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(128), disk_mb: Some(64), ..CreateSandboxRequest::default() }
}

#[tokio::test]
async fn a_fork_bomb_harms_only_its_sandbox() {
    let atoll = Atoll::start().await;
    let (bomb, neighbour) = (atoll.sandbox_with(small()).await.id, atoll.sandbox().await.id);
    let request = ExecRequest { timeout_sec: Some(3), ..command("/bin/bash", ["-c", ":(){ :|:& };:; sleep 60"]) };
    let running = atoll.client().exec(&bomb, &request);
    let watching = async {
        for _ in 0..5 {
            atoll.assert_well(&neighbour).await;
        }
    };
    let (_, ()) = tokio::join!(running, watching);
    let killed = atoll.client().exec(&bomb, &command("/bin/true", Vec::<String>::new())).await;
    // It answers again, or says clearly why not; it can always be destroyed.
    if let Err(error) = killed {
        assert!(error.status().is_some_and(|status| status < 600), "{error}");
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn memory_is_bounded_and_the_sandbox_survives_its_own_hog() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox_with(small()).await.id, atoll.sandbox().await.id);
    let answer = atoll.sh(&hog, "python3 -c \"x=[bytearray(1<<20) for _ in range(1000)]\"").await;
    assert_eq!(answer.exit_code, 137, "{answer:?}");
    atoll.assert_well(&neighbour).await;
    atoll.assert_well(&hog).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn memory_in_tmpfs_is_bounded_too() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox_with(small()).await.id, atoll.sandbox().await.id);
    let answer =
        atoll.root(&hog, "head -c 500M /dev/zero > /dev/shm/x; ls -s /dev/shm/x 2>/dev/null; rm -f /dev/shm/x").await;
    assert_ne!(answer.stdout.split(' ').next(), Some("512000"), "{answer:?}");
    atoll.assert_well(&neighbour).await;
    atoll.assert_well(&hog).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn the_disk_quota_holds_and_freed_space_comes_back() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox_with(small()).await.id, atoll.sandbox().await.id);
    let answer =
        atoll.sh(&hog, "dd if=/dev/zero of=/home/user/big bs=1M count=200 2>&1; stat -c %s /home/user/big").await;
    let size: u64 = answer.stdout.lines().last().and_then(|line| line.parse().ok()).expect("a size");
    assert!(size <= 64 << 20, "wrote {size} bytes past a quota of 64 MiB");
    assert!(answer.stdout.contains("quota") || answer.stdout.contains("No space"), "{answer:?}");
    atoll.assert_well(&neighbour).await;
    let answer = atoll.sh(&hog, "rm /home/user/big && sync; for i in $(seq 50); do head -c 10M /dev/zero > /home/user/small && exit 0; sleep 0.2; done; exit 1").await;
    assert_eq!(answer.exit_code, 0, "{answer:?}");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn small_files_without_end_are_bounded() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox_with(small()).await.id, atoll.sandbox().await.id);
    let script = "python3 - <<'EOF'\nimport os\nos.makedirs('/home/user/many')\nn=0\n\
                  try:\n  while n < 2000000:\n    open('/home/user/many/%d'%n,'w').close(); n+=1\n\
                  except OSError as e:\n  print('refused', n, e)\nEOF";
    let request = ExecRequest { timeout_sec: Some(300), ..command("/bin/bash", ["-c", script]) };
    let answer = atoll.client().exec(&hog, &request).await.expect("exec");
    assert!(answer.stdout.starts_with("refused"), "{answer:?}");
    atoll.assert_well(&neighbour).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn inotify_pids_descriptors_and_keys_are_counted_per_sandbox() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox().await.id, atoll.sandbox().await.id);
    let script = "python3 - <<'EOF'
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
n = 0
while n < 3000000:
    if libc.inotify_init1(0) < 0: break
    n += 1
print('instances', n)
fds = 0
try:
    while fds < 3000000:
        os.dup(0); fds += 1
except OSError as e:
    print('descriptors', fds)
EOF
python3 - <<'EOF'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
os.makedirs('/tmp/w', exist_ok=True)
n = 0
while n < 200000:
    os.makedirs('/tmp/w/%d' % n)
    if libc.inotify_add_watch(fd, b'/tmp/w/%d' % n, 2) < 0: break
    n += 1
print('watches', n)
key = libc.syscall(248, b'user', b'name', b'payload', 7, -4)
print('keys', 'refused' if key < 0 else 'added')
EOF";
    let request =
        ExecRequest { user: Some("root".into()), timeout_sec: Some(240), ..command("/bin/bash", ["-c", script]) };
    let answer = atoll.client().exec(&hog, &request).await.expect("exec");
    assert!(answer.stdout.contains("instances") && answer.stdout.contains("watches"), "{answer:?}");
    // There is no quota of keys per sandbox in the kernel: no container has any. A machine's are its own kernel's.
    let keys = if in_machines() { "keys added" } else { "keys refused" };
    assert!(answer.stdout.contains(keys), "{answer:?}");
    let check = "python3 - <<'EOF'
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
print('ok' if fd >= 0 and libc.inotify_add_watch(fd, b'/tmp', 2) >= 0 else ctypes.get_errno())
EOF";
    let answer = atoll.sh(&neighbour, check).await;
    assert_eq!(answer.stdout, "ok\n", "{answer:?}");
    atoll.assert_well(&neighbour).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn processors_are_bounded() {
    let atoll = Atoll::start().await;
    let (hog, neighbour) = (atoll.sandbox().await.id, atoll.sandbox().await.id);
    // Four busy loops for two seconds of wall time may use no more than one processor's time, with some slack for
    // the period in which the quota is counted.
    let script = "for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait; times | tail -1";
    let answer = atoll.sh(&hog, script).await;
    let last = answer.stdout.lines().last().expect("times");
    let user = last.split_whitespace().next().and_then(|word| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    });
    assert!(user.expect("user time") < 3.0, "four loops used more than one processor: {answer:?}");
    assert_eq!(atoll.sh(&hog, "nproc").await.stdout, "1\n");
    atoll.assert_well(&neighbour).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn what_the_sandbox_sees_of_the_machine_is_its_own() {
    let atoll = Atoll::start().await;
    let request = CreateSandboxRequest { memory_mb: Some(256), ..CreateSandboxRequest::default() };
    let (a, b) = (atoll.sandbox_with(request).await.id, atoll.sandbox().await.id);
    assert_memory(&atoll.sh(&a, "head -n 1 /proc/meminfo").await.stdout, 256);
    assert_eq!(atoll.sh(&a, "grep -c ^processor /proc/cpuinfo").await.stdout, "1\n");
    // What ps takes for the start of a process counts from the sandbox's own boot.
    let started = "awk '{print int($22 / 100)}' /proc/self/stat; awk '{print int($1)}' /proc/uptime";
    let seconds: Vec<u64> =
        atoll.sh(&a, started).await.stdout.lines().map(|line| line.parse().expect("seconds")).collect();
    assert!(seconds[0].abs_diff(seconds[1]) <= 2, "a process of now started at {} of {} s", seconds[0], seconds[1]);
    let boot_ids = [
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id"),
        atoll.sh(&a, "cat /proc/sys/kernel/random/boot_id").await.stdout,
        atoll.sh(&b, "cat /proc/sys/kernel/random/boot_id").await.stdout,
    ];
    assert!(boot_ids[0] != boot_ids[1] && boot_ids[1] != boot_ids[2] && boot_ids[0] != boot_ids[2], "{boot_ids:?}");
    atoll.stop_and_check().await;
}
