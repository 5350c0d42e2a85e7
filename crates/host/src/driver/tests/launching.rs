//! What a sandbox is when it is there.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_runs_programs_with_its_own_names_and_limits() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    assert_eq!(sandbox.ok("id -u; id -g; hostname; cat /etc/hostname"), "0\n0\nisland\nisland");
    assert_eq!(sandbox.ok("nproc"), "1");
    assert_eq!(sandbox.ok("awk '/MemTotal|SwapTotal/ {print $2}' /proc/meminfo"), "524288\n0");
    assert_eq!(sandbox.ok("cat /etc/resolv.conf"), format!("nameserver {}", sandbox.spec.slot.gateway()));
    assert!(sandbox.ok("cat /etc/hosts").contains(&format!("{}\tisland", sandbox.spec.slot.address())));
    assert_eq!(
        sandbox.ok("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"),
        (512_u64 << 20).to_string()
    );
    assert_eq!(sandbox.ok("echo $((6*7))"), "42");
    assert_ne!(sandbox.ok("cat /proc/sys/kernel/random/boot_id"), host_boot_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_to_the_volume_with_owners_counted_from_0() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    sandbox.ok("mkdir -p /srv/data && echo hello > /srv/data/file && chown -R 1000:1000 /srv/data");
    let path = sandbox.spec.volume.join("up/srv/data/file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).unwrap());
    assert_eq!(owner, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_terminals_and_shared_memory_work() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    sandbox.ok("echo x > /dev/null && head -c 8 /dev/urandom | wc -c && test -c /dev/tty && test -d /dev/fd/");
    assert_eq!(sandbox.user("echo x > /dev/null && head -c 3 /dev/zero | wc -c"), (0, "3\n".to_owned()));
    assert_eq!(sandbox.python("import pty,os\nm,s=pty.openpty()\nprint(os.ttyname(s))"), "/dev/pts/0");
    sandbox.python("import multiprocessing as m\nwith m.Pool(2) as p: assert p.map(abs,[-1,2])==[1,2]");
    assert_eq!(sandbox.user("echo hi > /dev/shm/x && cat /dev/shm/x"), (0, "hi\n".to_owned()));
    assert_eq!(sandbox.ok("stat -c %a:%U /dev/null /dev/shm"), "666:root\n1777:root");
}

#[tokio::test(flavor = "multi_thread")]
async fn setuid_programs_make_root_of_a_user() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    sandbox.ok("cp /usr/bin/id /usr/local/bin/root-id && chmod 4755 /usr/local/bin/root-id");
    assert_eq!(sandbox.user("/usr/local/bin/root-id -u"), (0, "0\n".to_owned()));
    assert_eq!(sandbox.ok("grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_gets_exactly_its_descriptors() {
    let fixture = Fixture::new();
    let spec = LaunchSpec { guest_config: serde_json::json!({"token": "for the guest"}), ..fixture.spec() };
    let sandbox = fixture.launch_spec(spec).await.unwrap();
    // 5, the ready pipe, was closed by the guest; the one of the connection that asks comes last.
    let open = sandbox.ok("ls /proc/1/fd | sort -n | head -6 | tr '\\n' ' '");
    assert!(open.starts_with("0 1 2 3 4 "), "{open}");
    assert_eq!(sandbox.ok("readlink /proc/1/fd/0 /proc/1/fd/2"), "/dev/null\n/dev/null");
    assert!(sandbox.ok("cat /proc/1/fd/4").contains("for the guest"));
    assert!(sandbox.ok("ls /proc/1/fd/6").contains("meminfo"));
    // What the guest agent writes behind descriptor 6 is what everybody reads.
    sandbox.ok("echo '1.00 2.00' > /proc/1/fd/6/uptime");
    assert_eq!(sandbox.ok("cat /proc/uptime"), "1.00 2.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_all_answer() {
    let fixture = Arc::new(Fixture::new());
    let launches: Vec<_> = (0..100)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { fixture.launch().await })
        })
        .collect();
    let mut sandboxes = Vec::new();
    for launch in launches {
        sandboxes.push(launch.await.unwrap());
    }
    let boot_ids: BTreeSet<_> =
        sandboxes.iter().map(|sandbox| sandbox.ok("cat /proc/sys/kernel/random/boot_id")).collect();
    assert_eq!(boot_ids.len(), 100);
    for sandbox in &sandboxes {
        fixture.driver.clean_up(&sandbox.spec.id).await.unwrap();
    }
    assert!(fixture.driver.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_is_up() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let talk = "import socket\ns=socket.create_server(('127.0.0.1',80))\nc=socket.create_connection(('127.0.0.1',80))\n\
                print(c.getpeername()[1])";
    assert_eq!(sandbox.python(talk), "80");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_lie_upon_each_other_and_stay_as_they_are() {
    let fixture = Fixture::new();
    // Beside each other: the kernel refuses a layer that lies within another.
    let (above, below) = (fixture.dir.path().join("above"), PathBuf::from("/usr"));
    fs::create_dir_all(above.join("srv")).unwrap();
    fs::write(above.join("srv/note"), "above the image\n").unwrap();
    // The host's /usr as the root: its programs are in /bin, its libraries in /lib.
    let spec = LaunchSpec { lowers: vec![above.clone().into(), below.into()], ..fixture.spec() };
    let sandbox = fixture.launch_spec(spec).await.unwrap();
    assert_eq!(sandbox.ok("cat /srv/note && echo changed > /srv/note"), "above the image");
    assert_eq!(sandbox.ok("cat /srv/note"), "changed");
    assert_eq!(fs::read_to_string(above.join("srv/note")).unwrap(), "above the image\n");
}
