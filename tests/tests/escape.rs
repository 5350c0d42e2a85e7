//! Ways out of a sandbox, each tried as root of the sandbox with the tools that its root has: all must fail.
//!
//! A script that could not have worked proves nothing, so each attempt first says `trying`, and where it can, the
//! test makes the thing on the host that the attempt would reach (a file, a process, a listener).

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use atoll_model::SandboxId;
use atoll_tests::Atoll;

/// Makes a raw system call from Python and prints `errno N`, or `worked`.
fn syscall(number: i64, args: &str) -> String {
    format!(
        "python3 - <<'EOF'\nimport ctypes,os\nlibc=ctypes.CDLL(None,use_errno=True)\n\
         buf=ctypes.create_string_buffer(4096)\nprint('trying')\n\
         r=libc.syscall({number},{args})\nprint('worked' if r>=0 else 'errno %d' % ctypes.get_errno())\nEOF"
    )
}

async fn refused(atoll: &Atoll, id: &SandboxId, what: &str, script: &str) {
    let answer = atoll.root(id, script).await;
    assert!(answer.stdout.starts_with("trying"), "{what}: the attempt didn't run: {answer:?}");
    assert!(!answer.stdout.contains("worked"), "{what}: it worked: {answer:?}");
}

#[tokio::test]
async fn system_calls_that_reach_the_host_are_refused() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let attempts = [
        ("mount a tmpfs", 165, "b'none',b'/mnt',b'tmpfs',0,None"),
        ("bind / over /mnt", 165, "b'/',b'/mnt',None,4096,None"),
        ("unmount /proc", 166, "b'/proc',2"),
        ("pivot_root", 155, "b'/',b'/mnt'"),
        ("fsopen", 430, "b'tmpfs',0"),
        ("open_tree", 428, "-100,b'/',1"),
        ("move_mount", 429, "-100,b'/tmp',-100,b'/mnt',0"),
        ("mount_setattr", 442, "-100,b'/',0,buf,32"),
        ("new user namespace by unshare", 272, "0x10000000"),
        ("new mount namespace by unshare", 272, "0x00020000"),
        ("new network namespace by unshare", 272, "0x40000000"),
        ("setns", 308, "os.open('/proc/self/ns/net',0),0"),
        ("load a module", 175, "buf,0,b''"),
        ("load a module from a file", 313, "os.open('/bin/true',0),b'',0"),
        ("remove a module", 176, "b'overlay',0"),
        ("kexec_load", 246, "0,0,None,0"),
        ("bpf", 321, "0,buf,128"),
        ("io_uring_setup", 425, "8,buf"),
        ("userfaultfd", 323, "0"),
        ("perf_event_open", 298, "buf,0,-1,-1,0"),
        ("add_key", 248, "b'user',b'x',b'y',1,-2"),
        ("keyctl", 250, "0,-3,1"),
        ("open_by_handle_at", 304, "3,buf,0"),
        ("reboot", 169, "0xfee1dead,0x28121969,0x4321fedc,None"),
        ("swapon", 167, "b'/tmp/x',0"),
        ("sethostname", 170, "b'x',1"),
        ("settimeofday", 164, "buf,None"),
        ("clock_settime", 227, "0,buf"),
        ("quotactl", 179, "0x80000700,b'/',0,None"),
        ("acct", 163, "b'/tmp/acct'"),
        ("read the kernel log", 103, "3,buf,4096"),
        ("ioperm", 173, "0,8,1"),
        ("iopl", 172, "3"),
        ("fanotify_init", 300, "0,0"),
        ("name a block device", 133, "b'/tmp/vda',0o60600,os.makedev(254,0)"),
        ("name a character device", 133, "b'/tmp/mem',0o20600,os.makedev(1,1)"),
    ];
    for (what, number, args) in attempts {
        refused(&atoll, &id, what, &syscall(number, args)).await;
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn namespaces_by_clone_and_clone3_are_refused() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    // CLONE_NEWUSER | SIGCHLD; a child that comes to life says so by its exit code.
    let clone = "python3 - <<'EOF'\nimport ctypes,os\nlibc=ctypes.CDLL(None,use_errno=True)\nprint('trying',flush=True)\n\
                 r=libc.syscall(56,0x10000011,0,0,0,0)\n\
                 os._exit(0) if r==0 else print('worked' if r>0 else ctypes.get_errno())\nEOF";
    refused(&atoll, &id, "clone with a new user namespace", clone).await;
    let clone3 = "python3 - <<'EOF'\nimport ctypes,os,struct\nlibc=ctypes.CDLL(None,use_errno=True)\n\
                  print('trying',flush=True)\na=ctypes.create_string_buffer(struct.pack('<11Q',0x10000000,0,0,0,17,0,0,0,0,0,0))\n\
                  r=libc.syscall(435,a,88)\nos._exit(0) if r==0 else print('worked' if r>0 else ctypes.get_errno())\nEOF";
    refused(&atoll, &id, "clone3 with a new user namespace", clone3).await;
    refused(&atoll, &id, "unshare(1)", "echo trying; unshare -Urm true && echo worked").await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn files_of_the_host_can_not_be_read() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let secret = atoll.scratch().join("secret");
    std::fs::write(&secret, "the-host's-own-secret").expect("writing the secret");
    let path = secret.display();
    for (what, reach) in [
        ("by its path", format!("cat {path}")),
        ("through the root of PID 1", format!("cat /proc/1/root{path}")),
        ("above the root", format!("cat /../../../..{path}")),
        ("through every descriptor", format!("for f in /proc/[0-9]*/fd/*; do cat $f/..{path} $f{path}; done")),
        ("through every cwd", format!("for f in /proc/[0-9]*/cwd; do cat $f/../../../../..{path}; done")),
        ("by chroot", format!("chroot /proc/1/root cat {path}")),
        (
            "by the image's disk",
            "mknod /tmp/disk b 254 0; strings /tmp/disk; cat /dev/vda /dev/sda /dev/loop0".to_owned(),
        ),
    ] {
        let script =
            format!("echo trying; ({reach}) 2>/dev/null </dev/null | grep -aq own-secret && echo worked; true");
        refused(&atoll, &id, what, &script).await;
    }
    // The agent's own file that PID 1 runs from is on the host's disk: it must not be writable.
    refused(&atoll, &id, "the guest agent's file", "echo trying; (: >> /proc/1/exe) 2>/dev/null && echo worked").await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn processes_of_the_host_can_not_be_seen_or_touched() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let mut victim = Command::new("sleep").arg("3131").stdin(Stdio::null()).spawn().expect("sleep");
    let pid = victim.id();
    for (what, reach) in [
        ("see it in /proc", "grep -alz 3131 /proc/[0-9]*/cmdline | grep -v self | grep -q . && grep -az sleep $(grep -alz '^3131$' /proc/[0-9]*/cmdline)".to_owned()),
        ("signal it", format!("kill -9 {pid}")),
        ("trace it", format!("python3 -c 'import ctypes;l=ctypes.CDLL(None);exit(0 if l.ptrace(16,{pid},0,0)==0 else 1)'")),
        ("read its memory", format!("cat /proc/{pid}/maps")),
        ("lower its priority", format!("renice 19 {pid}")),
        ("signal all there are", "kill -9 -1; test 1 = 2".to_owned()),
    ] {
        let script = format!("echo trying; ({reach}) >/dev/null 2>&1 && echo worked; true");
        if what == "signal all there are" {
            // Ends our own shell too; what counts is that the host's process lives.
            let _ = atoll.client().exec(&id, &atoll_client::command("/bin/bash", ["-c", &script])).await;
        } else {
            refused(&atoll, &id, what, &script).await;
        }
    }
    assert!(victim.try_wait().expect("victim").is_none(), "a sandbox killed a process of the host");
    victim.kill().expect("killing the victim");
    victim.wait().expect("waiting for the victim");
    let count = atoll.root(&id, "ls -d /proc/[0-9]* | wc -l").await;
    assert!(count.stdout.trim().parse::<u32>().expect("a number") < 12, "{count:?}");
    atoll.stop_and_check().await;
}

/// An attempt to connect; `worked` when something accepts.
fn connect(address: IpAddr, port: u16) -> String {
    format!(
        "python3 - <<'EOF'\nimport socket\nprint('trying')\n\
         s=socket.socket(socket.AF_INET6 if ':' in '{address}' else socket.AF_INET)\ns.settimeout(1.5)\n\
         try:\n  s.connect(('{address}',{port}))\n  print('worked')\nexcept OSError as e:\n  print(e)\nEOF"
    )
}

#[tokio::test]
async fn ports_of_the_host_and_private_networks_can_not_be_reached() {
    let atoll = Atoll::start().await;
    let (a, b) = (atoll.sandbox().await.id, atoll.sandbox().await.id);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("listener");
    let port = listener.local_addr().expect("address").port();
    let address = atoll.root(&a, "ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1").await.stdout;
    let own: Ipv4Addr = address.trim().parse().expect("the sandbox's address");
    let address = atoll.root(&b, "ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1").await.stdout;
    let other: Ipv4Addr = address.trim().parse().expect("the other sandbox's address");
    let gateway = Ipv4Addr::from(u32::from(own) & 0xffff_ff00);
    let shown = Command::new("ip").args(["-o", "address", "show"]).output().expect("ip address");
    let mut targets: Vec<IpAddr> = String::from_utf8_lossy(&shown.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect();
    targets.push(gateway.into());
    for target in targets {
        refused(&atoll, &a, &format!("the host's listener at {target}"), &connect(target, port)).await;
        refused(&atoll, &a, &format!("SSH at {target}"), &connect(target, 22)).await;
    }
    // The other sandbox listens; it must be reachable from within, and from nowhere else.
    let serve = atoll_model::api::sandboxes::ExecRequest {
        background: true,
        ..atoll_client::command("python3", ["-m", "http.server", "8000"])
    };
    atoll.client().exec_background(&b, &serve).await.expect("starting a server");
    atoll_tests::until("the other sandbox's server", || async {
        let answer = atoll.root(&b, "curl -fsS -o /dev/null http://127.0.0.1:8000/ && echo up").await;
        (answer.stdout == "up\n").then_some(())
    })
    .await;
    refused(&atoll, &a, "another sandbox", &connect(other.into(), 8000)).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn cgroups_and_kernel_settings_can_not_be_written() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let script = "echo trying
        for f in $(find /sys/fs/cgroup -type f 2>/dev/null | grep -E 'limit_in_bytes|pids.max|cpu.cfs_quota|memory.max|cgroup.procs|tasks|release_agent'); do
            (echo 1 > $f) 2>/dev/null && echo \"worked $f\"; done
        mkdir -p $(find /sys/fs/cgroup -type d 2>/dev/null | sed 's,$,/evil,') 2>/dev/null && [ -d /sys/fs/cgroup ] && find /sys/fs/cgroup -name evil | grep -q . && echo 'worked mkdir'
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/overcommit_memory \
                 /proc/sys/kernel/hostname /proc/sys/fs/file-max /sys/kernel/uevent_helper /sys/power/state /proc/1/oom_score_adj; do
            (echo -999 > $f) 2>/dev/null && echo \"worked $f\"; done; true";
    refused(&atoll, &id, "writing cgroups and settings", script).await;
    for secret in [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/kmsg",
        "/sys/firmware/acpi/tables/DSDT",
    ] {
        let script = format!(
            "echo trying; [ -n \"$(timeout 2 head -c 64 {secret} 2>/dev/null | tr -d '\\0 ' | grep -v '^0*$')\" ] && echo worked; true"
        );
        refused(&atoll, &id, secret, &script).await;
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn root_inside_is_an_ordinary_id_outside_and_no_two_sandboxes_share_ids() {
    let atoll = Atoll::start().await;
    let mut bases = Vec::new();
    for _ in 0..3 {
        let id = atoll.sandbox().await.id;
        let map = atoll.root(&id, "cat /proc/self/uid_map").await.stdout;
        let fields: Vec<u64> = map.split_whitespace().map(|field| field.parse().expect("a number")).collect();
        assert_eq!((fields[0], fields[2], fields.len()), (0, 65536, 3), "{map}");
        assert!(fields[1] >= 1 << 24, "root of the sandbox is a low id outside: {map}");
        bases.push(fields[1]);
    }
    bases.sort_unstable();
    assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 65536), "{bases:?}");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn sudo_works_inside() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let answer = atoll.sh(&id, "id -un; sudo id -un; sudo sh -c 'echo x > /etc/made-by-root && chown user /etc/made-by-root'; stat -c %U /etc/made-by-root").await;
    assert_eq!((answer.exit_code, answer.stdout.as_str()), (0, "user\nroot\nuser\n"), "{answer:?}");
    atoll.stop_and_check().await;
}

/// The guest agent is a clone of a process of the host, not a program started anew: nothing of that may be left to use.
#[tokio::test]
async fn pid_1_is_an_ordinary_process_of_the_sandbox_that_keeps_nothing_of_the_host() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let shown = "tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/1/comm
        grep -E '^(NoNewPrivs|Seccomp|Uid|Gid|Groups):' /proc/1/status
        [ \"$(grep Cap /proc/1/status)\" = \"$(grep Cap /proc/self/status)\" ] && echo same powers; pgrep -P 0 | tr '\\n' ' '";
    let answer = atoll.root(&id, shown).await;
    let expected = "atoll-guest \natoll-guest\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nNoNewPrivs:\t0\nSeccomp:\t2\nsame powers\n1 ";
    assert_eq!(answer.stdout, expected, "{answer:?}");
    // Its memory was the zygote's: not even root inside may look into it, before and after programs of users have run.
    for _ in 0..2 {
        for (what, path) in [("memory", "mem"), ("environment", "environ"), ("places", "maps")] {
            let script = format!("echo trying; dd if=/proc/1/{path} bs=1 count=1 status=none && echo worked; true");
            refused(&atoll, &id, what, &script).await;
        }
        let descriptors =
            "echo trying; ls /proc/1/fd && echo worked; readlink /proc/1/ns/mnt /proc/1/root && echo worked; true";
        refused(&atoll, &id, "descriptors", descriptors).await;
        let attach = syscall(101, "16,1,0,0");
        refused(&atoll, &id, "attaching to it as a debugger does", &attach).await;
        assert_eq!(atoll.sh(&id, "true").await.exit_code, 0);
    }
    for (what, script) in [
        ("reading its program", "echo trying; head -c 4 /proc/1/exe | grep -q ELF && echo worked"),
        ("running its program", "echo trying; /proc/1/exe --help 2>&1 | grep -q guest && echo worked"),
        ("writing to its program", "echo trying; echo x 2>/dev/null >>/proc/1/exe && echo worked"),
    ] {
        refused(&atoll, &id, what, script).await;
    }
    // Who may be read with no special power must still be somebody of one's own.
    let answer =
        atoll.sh(&id, "echo trying; cat /proc/1/environ && echo worked; ls /proc/1/fd && echo worked; true").await;
    assert_eq!(answer.stdout, "trying\n", "{answer:?}");
    atoll.stop_and_check().await;
}
