//! Attempts to get out, as root of a sandbox. Each must fail, and each must fail on its own: the refusals are looked at
//! one by one, not only that something went wrong.

use super::*;

/// `libc.syscall` from inside: prints the errno's name, or `OK`.
fn syscall(sandbox: &Sandbox, number: i64, arguments: &str) -> String {
    sandbox.python(&format!(
        "import ctypes,errno\nlibc=ctypes.CDLL(None,use_errno=True)\nr=libc.syscall({number},{arguments})\n\
         print('OK' if r>=0 else errno.errorcode[ctypes.get_errno()])"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_can_not_mount_load_or_reach_the_machine() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let refused: &[(&str, i64, &str)] = &[
        ("mount", libc::SYS_mount, "b'none',b'/mnt',b'tmpfs',0,0"),
        ("umount", libc::SYS_umount2, "b'/proc',2"),
        ("pivot_root", libc::SYS_pivot_root, "b'/',b'/'"),
        ("open_tree", libc::SYS_open_tree, "-100,b'/',1"),
        ("fsopen", libc::SYS_fsopen, "b'tmpfs',0"),
        ("user namespace", libc::SYS_unshare, "0x10000000"),
        ("mount namespace", libc::SYS_unshare, "0x20000"),
        ("network namespace", libc::SYS_unshare, "0x40000000"),
        ("cgroup namespace", libc::SYS_unshare, "0x2000000"),
        ("time namespace", libc::SYS_unshare, "0x80"),
        ("setns", libc::SYS_setns, "0,0"),
        ("bpf", libc::SYS_bpf, "0,0,0"),
        ("io_uring", libc::SYS_io_uring_setup, "8,0"),
        ("userfaultfd", libc::SYS_userfaultfd, "0"),
        ("perf", libc::SYS_perf_event_open, "0,0,-1,-1,0"),
        ("keyctl", libc::SYS_keyctl, "0,-3,0"),
        ("add_key", libc::SYS_add_key, "b'user',b'x',b'y',1,-2"),
        ("module", libc::SYS_init_module, "0,0,b''"),
        ("module from file", libc::SYS_finit_module, "0,b'',0"),
        ("kexec", libc::SYS_kexec_load, "0,0,0,0"),
        ("reboot", libc::SYS_reboot, "0xfee1dead,672274793,0x89abcdef,0"),
        ("kernel log", libc::SYS_syslog, "3,0,0"),
        ("swap", libc::SYS_swapon, "b'/x',0"),
        ("file handles", libc::SYS_open_by_handle_at, "-100,0,0"),
        ("fanotify", libc::SYS_fanotify_init, "0,0"),
        ("clock", libc::SYS_clock_settime, "0,0"),
        ("vsock", libc::SYS_socket, "40,1,0"),
        ("packet socket", libc::SYS_socket, "17,3,0"),
        ("crypto socket", libc::SYS_socket, "38,5,0"),
        ("input into a terminal", libc::SYS_ioctl, "0,0x5412,b'x'"),
    ];
    for (name, number, arguments) in refused {
        assert_eq!(syscall(&sandbox, *number, arguments), "EPERM", "{name}");
    }
    assert_eq!(syscall(&sandbox, libc::SYS_clone3, "0,0"), "ENOSYS");
    assert_eq!(syscall(&sandbox, 0x4000_0000 + 39, ""), "ENOSYS", "getpid of the x32 calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_has_no_power_over_the_kernel() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    for command in [
        "mknod /tmp/disk b 254 0",
        "mknod /dev/mem c 1 1",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo 99 > /proc/sys/user/max_user_namespaces",
        "echo c > /proc/sysrq-trigger && false",
        "echo 1 > /sys/kernel/profiling",
        "echo 9999 > /sys/fs/cgroup/pids/pids.max",
        "echo 0 > /sys/fs/cgroup/memory/cgroup.procs",
        "mkdir /sys/fs/cgroup/unified/mine",
        "echo 1 > /sys/fs/cgroup/unified/cgroup.kill",
        "date -s 2001-01-01",
        "ip link add dummy0 type dummy",
        "chroot / mount -t tmpfs none /mnt",
        "head -c 1 /proc/kcore | grep .",
        "head -c 1 /proc/kmsg | grep .",
        "head -c 1 /proc/kallsyms | grep .",
        "ls /sys/firmware | grep .",
        "ulimit -n 1000000",
        "ulimit -Hc 1",
    ] {
        sandbox.refused(command);
    }
    let held = sandbox.ok("grep CapEff /proc/self/status | cut -f2");
    let held = u64::from_str_radix(&held, 16).unwrap();
    for (name, number) in [
        ("NET_ADMIN", 12),
        ("SYS_MODULE", 16),
        ("SYS_RAWIO", 17),
        ("SYS_ADMIN", 21),
        ("SYS_BOOT", 22),
        ("SYS_RESOURCE", 24),
        ("SYS_TIME", 25),
        ("MKNOD", 27),
        ("SYSLOG", 34),
        ("BPF", 39),
    ] {
        assert_eq!(held >> number & 1, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_is_seen() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    // The host's processes: only those that were started inside have numbers inside.
    let pids = sandbox.ok("ls /proc | grep -c '^[0-9]*$'");
    assert!(pids.parse::<u32>().unwrap() < 10, "{pids}");
    let host = sandbox.running.init.pid;
    sandbox.refused(&format!("kill -0 {host}"));
    sandbox.refused(&format!("ls /proc/{host}"));
    // Mounts: only its own, with an overlay for a root, and no way back to the old one.
    let mounts = sandbox.ok("cat /proc/self/mountinfo");
    let roots: Vec<_> = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).collect();
    assert_eq!(roots.len(), 1, "{mounts}");
    assert!(roots[0].contains(" - overlay "), "{mounts}");
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap();
        assert!(
            ["/", "/proc", "/sys", "/dev"].iter().any(|top| point == *top || point.starts_with(&format!("{top}/")))
        );
    }
    assert_eq!(sandbox.ok("ls /proc/1/fd/6/.. | tr '\\n' ' '"), sandbox.ok("ls /proc/1/fd/6 | tr '\\n' ' '"));
    // Cgroups: its own are the root of all.
    assert!(sandbox.ok("cut -d: -f3 /proc/self/cgroup").lines().all(|path| path == "/" || path.starts_with("/..")));
    let own = sandbox.ok("grep -E ':(cpu|memory|pids)?:' /proc/self/cgroup | cut -d: -f3");
    assert_eq!(lines(&own), BTreeSet::from(["/"]));
    // Network: a namespace with a loopback and nothing else.
    assert_eq!(sandbox.ok("ls /sys/class/net"), "lo");
    // Keys and abstract sockets.
    assert_eq!(sandbox.ok("cat /proc/keys /proc/key-users | wc -c"), "0");
    assert_eq!(sandbox.ok("grep -c @ /proc/net/unix || true"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sandbox_is_somebody_else_on_the_host() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.launch().await, fixture.launch().await);
    let map = |sandbox: &Sandbox| sandbox.ok("tr -s ' ' < /proc/self/uid_map").trim().to_owned();
    assert_eq!(map(&one), format!("0 {} 65536", one.spec.slot.id_base()));
    assert_ne!(map(&one), map(&other));
    let uid = |sandbox: &Sandbox| {
        let status = fs::read_to_string(format!("/proc/{}/status", sandbox.running.init.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().to_owned()
    };
    let base = one.spec.slot.id_base();
    assert_eq!(uid(&one), format!("{base}\t{base}\t{base}\t{base}"));
    for kind in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let pids = [one.running.init.pid.to_string(), other.running.init.pid.to_string(), "self".to_owned()];
        let distinct: BTreeSet<_> = pids.iter().map(|pid| of(pid)).collect();
        assert_eq!(distinct.len(), 3, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_inside_and_the_neighbour_works() {
    let fixture = Fixture::new();
    let (bomb, neighbour) = (fixture.launch().await, fixture.launch().await);
    bomb.root("python3 -c 'import os,time\nfor i in range(300):\n  try:\n    if os.fork() == 0: time.sleep(1000)\n  except OSError: print(\"full\"); break' > /dev/null 2>&1 &");
    loop {
        let count = fixture.driver.usage(&bomb.spec.id).unwrap().processes;
        assert!(count <= 128, "{count}");
        if count >= 120 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(neighbour.ok("echo fine"), "fine");
    fixture.driver.kill(&bomb.spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn inotify_of_one_sandbox_takes_nothing_from_another() {
    let fixture = Fixture::new();
    let (greedy, neighbour) = (fixture.launch().await, fixture.launch().await);
    let take = "import ctypes,resource,time\nlibc=ctypes.CDLL(None)\nn=0\nwhile libc.inotify_init()>=0: n+=1\nprint(n)";
    let most: u32 = greedy.python(take).parse().unwrap();
    assert!((1..=1024).contains(&most), "{most}");
    greedy.root(&format!("(python3 -c \"{}\ntime.sleep(1000)\" > /dev/null 2>&1 &)", take.replace('"', "'")));
    assert_eq!(neighbour.python("import ctypes\nprint(ctypes.CDLL(None).inotify_init()>=0)"), "True");
    // Nor does one see what another does with its devices.
    let inode = |sandbox: &Sandbox| sandbox.ok("stat -c %d /dev/null");
    assert_ne!(inode(&greedy), inode(&neighbour));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_an_image_lead_nowhere_else() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    let outside = fixture.dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    // As if an earlier life of the sandbox, or its image, had left them.
    let etc = spec.volume.join("up/etc");
    fs::create_dir_all(&etc).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        std::os::unix::fs::symlink(&outside, etc.join(name)).unwrap();
    }
    let sandbox = fixture.launch_spec(spec).await.unwrap();
    assert_eq!(sandbox.ok("cat /etc/hostname"), "island");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_that_all_sandboxes_share_can_not_be_opened_watched_or_changed() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    sandbox.refused("head -c 1 /proc/1/exe");
    sandbox.refused("echo x >> /proc/1/exe");
    let watch = "import ctypes,errno\nlibc=ctypes.CDLL(None,use_errno=True)\nfd=libc.inotify_init()\n\
                 print(libc.inotify_add_watch(fd,b'/proc/1/exe',0xfff), errno.errorcode[ctypes.get_errno()])";
    assert_eq!(sandbox.python(watch), "-1 EACCES");
    // Of the group that may, nothing is left in programs.
    assert_eq!(sandbox.ok("grep Groups /proc/self/status | tr -d '[:space:]'"), "Groups:");
    // The guest agent itself is not crippled by it: its own files are its own.
    sandbox.ok("echo 100 > /proc/self/oom_score_adj && echo 7 > /proc/1/oom_score_adj");
}
