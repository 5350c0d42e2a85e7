//! Ways out of a sandbox, each tried as root of the sandbox with the tools that its root has: all must fail.
//!
//! A script that could not have worked proves nothing, so each attempt first says `trying`, and where it can, the
//! test makes the thing on the host that the attempt would reach (a file, a process, a listener). Nor does one that failed for
//! another reason than it should, so each then says why it failed, and the test knows what that must be.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use atoll_model::SandboxId;
use atoll_tests::cluster::{Cluster, Database};
use atoll_tests::{Atoll, until};

const EPERM: &str = "errno 1";
const ENOSYS: &str = "errno 38";
const ENETUNREACH: &str = "errno 101";
const ECONNREFUSED: &str = "errno 111";
const EHOSTUNREACH: &str = "errno 113";
/// As the C library words them.
const DENIED: &str = "Permission denied";
const NOT_PERMITTED: &str = "Operation not permitted";
const NOT_THERE: &str = "No such file or directory";
const NO_PROCESS: &str = "No such process";
const READ_ONLY: &str = "Read-only file system";

/// Makes a raw system call from Python and prints `errno N`, or `worked`. A child that comes of it ends at once.
fn syscall(number: i64, args: &str) -> String {
    format!(
        "python3 - <<'EOF'\nimport ctypes,os,struct\nlibc=ctypes.CDLL(None,use_errno=True)\n\
         buf=ctypes.create_string_buffer(4096)\nprint('trying',flush=True)\nown=os.getpid()\n\
         r=libc.syscall({number},{args})\nif os.getpid()!=own: os._exit(0)\n\
         print('worked' if r>=0 else 'errno %d' % ctypes.get_errno())\nEOF"
    )
}

/// Runs shell commands that say `worked` by ending well; otherwise tells all reasons that they gave, each once.
fn tried(commands: &str) -> String {
    format!(
        "echo trying; why=$(mktemp); ({commands}) >/dev/null 2>$why </dev/null && echo worked
         sed 's/.*\\(: \\| - \\)//' $why | sort -u; rm $why"
    )
}

/// The attempt is made, and fails for these reasons, one a line.
async fn refused(atoll: &Atoll, id: &SandboxId, what: &str, script: &str, reasons: &[&str]) {
    let answer = atoll.root(id, script).await;
    let expected: String = ["trying"].iter().chain(reasons).map(|line| format!("{line}\n")).collect();
    assert_eq!(answer.stdout, expected, "{what}: {answer:?}");
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
        refused(&atoll, &id, what, &syscall(number, args), &[EPERM]).await;
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn namespaces_by_clone_and_clone3_are_refused() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    // CLONE_NEWUSER | SIGCHLD.
    let clone = syscall(56, "0x10000011,0,0,0,0");
    refused(&atoll, &id, "clone with a new user namespace", &clone, &[EPERM]).await;
    // There is no such call inside: its flags can't be judged.
    let clone3 = syscall(435, "struct.pack('<11Q',0x10000000,0,0,0,17,0,0,0,0,0,0),88");
    refused(&atoll, &id, "clone3 with a new user namespace", &clone3, &[ENOSYS]).await;
    refused(&atoll, &id, "unshare(1)", &tried("unshare -Urm true"), &[NOT_PERMITTED]).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn files_of_the_host_can_not_be_read() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let secret = atoll.scratch().join("secret");
    std::fs::write(&secret, "the-host's-own-secret").expect("writing the secret");
    let path = secret.display();
    // What a descriptor leads to may be no directory; PID 1's own are closed to all.
    let descriptors = format!("for f in /proc/[0-9]*/fd/*; do cat $f/..{path} || cat $f{path} && exit; done; false");
    let directories = format!("for f in /proc/[0-9]*/cwd; do cat $f/../../../../..{path} && exit; done; false");
    let attempts: [(&str, String, &[&str]); 9] = [
        ("by its path", format!("cat {path}"), &[NOT_THERE]),
        ("through the root of PID 1", format!("cat /proc/1/root{path}"), &[DENIED]),
        ("above the root", format!("cat /../../../..{path}"), &[NOT_THERE]),
        ("through every descriptor", descriptors, &[NOT_THERE, "Not a directory"]),
        ("through every cwd", directories, &[NOT_THERE, DENIED]),
        ("by chroot", format!("chroot /proc/1/root cat {path}"), &[DENIED]),
        ("by a disk that it names itself", "mknod /tmp/disk b 254 0".to_owned(), &[NOT_PERMITTED]),
        ("by the host's disks", "cat /dev/vda || cat /dev/sda || cat /dev/loop0".to_owned(), &[NOT_THERE]),
        // It is on the host's disk, and PID 1 runs from it.
        ("the guest agent's own file", ": >> /proc/1/exe".to_owned(), &[DENIED]),
    ];
    for (what, reach, reasons) in attempts {
        refused(&atoll, &id, what, &tried(&reach), reasons).await;
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn processes_of_the_host_can_not_be_seen_or_touched() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let mut victim = Command::new("sleep").arg("3131").stdin(Stdio::null()).spawn().expect("sleep");
    let pid = victim.id();
    let trace = format!(
        "python3 -c 'import ctypes,os,sys; l=ctypes.CDLL(None,use_errno=True)
sys.exit(0 if l.ptrace(16,{pid},0,0)==0 else os.strerror(ctypes.get_errno()))'"
    );
    let attempts: [(&str, String, &[&str]); 5] = [
        ("see it in /proc", "grep -lzx '313[1]' /proc/[0-9]*/cmdline".to_owned(), &[]),
        ("signal it", format!("kill -9 {pid}"), &[NO_PROCESS]),
        ("trace it", trace, &[NO_PROCESS]),
        ("read its memory", format!("cat /proc/{pid}/maps"), &[NOT_THERE]),
        ("lower its priority", format!("renice 19 {pid}"), &[NO_PROCESS]),
    ];
    for (what, reach, reasons) in attempts {
        refused(&atoll, &id, what, &tried(&reach), reasons).await;
    }
    // Ends our own shell too; what counts is that the host's process lives.
    let _ended = atoll.client().exec(&id, &atoll_client::command("/bin/bash", ["-c", "kill -9 -1"])).await;
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
         to=('{address}',{port})+((0,socket.if_nametoindex('eth0')) if '{address}'.startswith('fe80:') else ())\n\
         try:\n  s.connect(to)\n  print('worked')\nexcept OSError as e:\n  print('errno %d' % e.errno if e.errno else e)\nEOF"
    )
}

/// What an attempt to connect must come to. The program inside hears at once that it is refused; of IPv6 there is none.
fn unreachable(address: IpAddr) -> &'static str {
    if address.is_ipv4() { ECONNREFUSED } else { ENETUNREACH }
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
        refused(
            &atoll,
            &a,
            &format!("the host's listener at {target}"),
            &connect(target, port),
            &[unreachable(target)],
        )
        .await;
        refused(&atoll, &a, &format!("SSH at {target}"), &connect(target, 22), &[unreachable(target)]).await;
    }
    // The other sandbox listens; it must be reachable from within, and from nowhere else.
    let serve = atoll_model::api::sandboxes::ExecRequest {
        background: true,
        ..atoll_client::command("python3", ["-m", "http.server", "8000"])
    };
    atoll.client().exec_background(&b, &serve).await.expect("starting a server");
    until("the other sandbox's server", || async {
        let answer = atoll.root(&b, "curl -fsS -o /dev/null http://127.0.0.1:8000/ && echo up").await;
        (answer.stdout == "up\n").then_some(())
    })
    .await;
    refused(&atoll, &a, "another sandbox", &connect(other.into(), 8000), &[ECONNREFUSED]).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn cgroups_and_kernel_settings_can_not_be_written() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    // A subshell that ends with the first that works.
    let limits = "limit_in_bytes|pids.max|cpu.cfs_quota|cpu.max|memory.max|cgroup.procs|tasks|release_agent";
    let write =
        format!("for f in $(find /sys/fs/cgroup -type f | grep -E '{limits}'); do (echo 1 > $f) && exit; done; false");
    refused(&atoll, &id, "writing to cgroups", &tried(&write), &[READ_ONLY]).await;
    let make =
        "for d in $(find /sys/fs/cgroup -name cgroup.procs -printf '%h '); do mkdir $d/evil && exit; done; false";
    refused(&atoll, &id, "making cgroups", &tried(make), &[READ_ONLY]).await;
    // Not every kernel has all of them; what it has not is no attempt.
    let settings = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/overcommit_memory \
                    /proc/sys/kernel/hostname /proc/sys/fs/file-max /sys/kernel/uevent_helper /sys/power/state";
    let write = format!("for f in {settings}; do if [ -e $f ]; then (echo -999 > $f) && exit; fi; done; false");
    refused(&atoll, &id, "writing settings of the kernel", &tried(&write), &[READ_ONLY]).await;
    refused(&atoll, &id, "PID 1's place in line", &tried("echo -999 > /proc/1/oom_score_adj"), &[DENIED]).await;
    // These are there and have nothing, or are not there.
    for secret in [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/kmsg",
        "/proc/sysrq-trigger",
        "/sys/firmware/acpi/tables/DSDT",
    ] {
        // What `od` says of nothing.
        let look =
            format!("echo trying; [ ! -e {secret} ] || timeout 10 head -c 64 {secret} | od -c | grep -v '^0000000$'");
        refused(&atoll, &id, secret, &look, &[]).await;
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
        for (what, look) in [
            ("memory", "dd if=/proc/1/mem bs=1 count=1"),
            ("environment", "dd if=/proc/1/environ bs=1 count=1"),
            ("places", "dd if=/proc/1/maps bs=1 count=1"),
            ("descriptors", "ls /proc/1/fd"),
            ("namespaces", "ls -L /proc/1/ns/mnt"),
            ("root", "ls /proc/1/root/"),
            ("reading its program", "head -c 4 /proc/1/exe"),
            ("running its program", "/proc/1/exe --help"),
            ("writing to its program", "echo x >>/proc/1/exe"),
        ] {
            refused(&atoll, &id, what, &tried(look), &[DENIED]).await;
        }
        refused(&atoll, &id, "attaching to it as a debugger does", &syscall(101, "16,1,0,0"), &[EPERM]).await;
        assert_eq!(atoll.sh(&id, "true").await.exit_code, 0);
    }
    // Who may be read with no special power must still be somebody of one's own.
    for look in ["cat /proc/1/environ", "ls /proc/1/fd"] {
        let answer = atoll.sh(&id, &tried(look)).await;
        assert_eq!(answer.stdout, format!("trying\n{DENIED}\n"), "{answer:?}");
    }
    atoll.stop_and_check().await;
}

/// Clouds tell a machine at this address who it is, with keys of its owner's. Here something does listen there, on another
/// machine of a network of the test's own, as a cloud has it; then on the host itself, as some clouds' agents do.
#[tokio::test]
async fn the_metadata_address_is_refused_even_where_something_answers_there() {
    const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    let mut cluster = Cluster::start_on(Database::Sqlite, 1, 1, &[]).await;
    let cloud = cluster.net.add(100);
    let (host, at) = (cluster.hosts[0].node.machine.clone(), cluster.net.address(100));
    let id = cluster.sandbox_on(0).await;
    let url = format!("http://{METADATA}/");
    for (machine, way) in [(&cloud, format!("route add {METADATA}/32 via {at}")), (&host, String::new())] {
        ip(&format!("-n {machine} address add {METADATA}/32 dev lo"));
        if !way.is_empty() {
            ip(&format!("-n {host} {way}"));
        }
        let _served = Served::at(machine, METADATA);
        // The host gets an answer there.
        let asked =
            || Command::new("ip").args(["netns", "exec", &host, "curl", "-fsS", "--noproxy", "*", &url]).output();
        until("an answer there", || async { asked().expect("curl").status.success().then_some(()) }).await;
        // A sandbox is refused at once.
        let said = root(&cluster, &id, &connect(METADATA.into(), 80)).await;
        assert_eq!(said, format!("trying\n{ECONNREFUSED}\n"), "{machine}");
        let curl = format!("echo trying; curl -sS -m 5 --noproxy '*' {url} >/dev/null 2>&1; echo $?");
        assert_eq!(root(&cluster, &id, &curl).await, "trying\n7\n", "{machine}");
        // Nor do datagrams get there, or out.
        let datagram = format!(
            "python3 - <<'EOF'\nimport socket\nprint('trying')\ns=socket.socket(2,2); s.settimeout(5)\n\
             s.connect(('{METADATA}',80))\ntry:\n  s.send(b'x'); s.recv(1); print('worked')\n\
             except OSError as e:\n  print('errno %d' % e.errno if e.errno else e)\nEOF"
        );
        assert_eq!(root(&cluster, &id, &datagram).await, format!("trying\n{EHOSTUNREACH}\n"), "{machine}");
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
    assert!(done.success(), "ip {arguments}");
}

/// A web server in a network namespace; ends with this.
struct Served(std::process::Child);

impl Served {
    fn at(machine: &str, address: Ipv4Addr) -> Self {
        let mut server = Command::new("ip");
        server.args(["netns", "exec", machine, "python3", "-m", "http.server", "--bind", &address.to_string(), "80"]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(server.spawn().expect("python3"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a script prints that root of the sandbox runs.
async fn root(cluster: &Cluster, id: &SandboxId, script: &str) -> String {
    let mut run = atoll_client::command("/bin/bash", ["-c", script]);
    run.user = Some("root".to_owned());
    cluster.client.exec(id, &run).await.expect("exec").stdout
}
