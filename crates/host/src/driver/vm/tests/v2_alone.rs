//! Containers where there is cgroup v2 and nothing of v1, as on Debian 12 and 13 from the start. A machine that has
//! controllers on v1 can't give them to v2 while they are in use, so this is tried in one of ours, whose kernel is Debian's:
//! this very executable runs the tests of cgroups and of containers there.

use super::*;

/// Tests that run inside, by what their names begin with.
const TESTS: [&str; 3] = ["cgroup::tests::", "driver::tests::lifecycle::", "driver::tests::launching::"];
/// Those among them for which the machine is too small, its kernel has no compressed memory, or its image no Python.
const NOT_INSIDE: [&str; 4] = ["a_hundred_at_once", "goes_to_swap", "devices_terminals", "the_loopback"];
/// Of those that do, the ones that a v2 tree could fail.
const MATTER: [&str; 9] = [
    "cgroup::tests::a_frozen_cgroup_is_killed_and_leaves_nothing",
    "cgroup::tests::memory_that_nobody_needs_is_given_back_and_the_limit_on_swap_is_what_it_was",
    "cgroup::tests::processor_time_is_counted_and_is_the_same_both_ways",
    "cgroup::tests::the_kernel_has_the_limits_that_were_asked_for",
    "driver::tests::launching::a_sandbox_runs_programs_with_its_own_names_and_limits",
    "driver::tests::lifecycle::a_killed_sandbox_leaves_nothing_paused_or_not",
    "driver::tests::lifecycle::a_paused_sandbox_stands_still_and_goes_on",
    "driver::tests::lifecycle::a_sandbox_outlives_its_driver_and_is_found_again",
    "driver::tests::lifecycle::memory_that_runs_out_kills_what_took_it_and_is_counted",
];
/// What they call, beside what all machines of these tests have.
const MORE_TOOLS: [&str; 18] = [
    "awk",
    "chmod",
    "chown",
    "cp",
    "grep",
    "head",
    "hostname",
    "mkdir",
    "pivot_root",
    "readlink",
    "rm",
    "sort",
    "stat",
    "touch",
    "tr",
    "true",
    "unshare",
    "wc",
];

/// In a mount namespace of its own: the image is the root, for an overlay could be no container's layer, with the machine's
/// own disk for what the tests write.
const ENTER: &str = "set -e
    for disk in /sys/block/vd*; do
        read -r serial < $disk/serial || :
        case $serial in
            lower0) mount -t erofs -o ro /dev/${disk##*/} /mnt;;
            disk) own=/dev/${disk##*/};;
        esac
    done
    mount -t ext4 $own /mnt/var/tmp
    for it in proc sys dev; do mount --rbind /$it /mnt/$it; done
    for it in run tmp; do mount -t tmpfs none /mnt/$it; done
    mkdir /mnt/run/old
    cd /mnt; pivot_root . run/old; cd /
    exec tests --test-threads=1 \"$@\"";

/// A root file system with the tests in it, laid out as Debian's is.
fn image_with_tests(dir: &Path) -> PathBuf {
    let (root, image) = (dir.join("v2"), dir.join("v2.erofs"));
    sh(&format!(
        "mkdir {root}; cd {root}; mkdir -p usr/bin usr/lib usr/lib64 usr/local/bin etc proc sys dev run tmp mnt root srv var/tmp
         for it in bin lib lib64; do ln -s usr/$it $it; done
         echo root:x:0:0::/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group",
        root = root.display()
    ));
    for tool in TOOLS.iter().chain(&MORE_TOOLS) {
        put_program(&root, Path::new(sh(&format!("readlink -f $(which {tool})")).trim()), tool);
    }
    put_program(&root, &std::env::current_exe().unwrap(), "tests");
    sh(&format!("mkfs.erofs {} {}", image.display(), root.display()));
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_live_and_die_where_there_is_cgroup_v2_alone() {
    let fixture = Fixture::new();
    let mut spec = LaunchSpec { vcpus: 2, memory_bytes: 3 << 29, disk_bytes: 1 << 30, ..fixture.spec() };
    spec.lowers = vec![Lower { path: PathBuf::from("/"), file: Some(image_with_tests(fixture.dir.path())) }];
    fixture.launch(&spec).await.unwrap();

    // No controller is on v1, all that count are on v2.
    let mounted = ok(&spec, "mount -t cgroup,cgroup2").await;
    assert!(mounted.starts_with("cgroup2 on /sys/fs/cgroup type cgroup2") && mounted.lines().count() == 1, "{mounted}");
    let offered = ok(&spec, "cat /sys/fs/cgroup/cgroup.controllers").await;
    assert!(["cpu", "memory", "pids"].iter().all(|one| offered.split(' ').any(|it| it == *one)), "{offered}");

    let skipped: String = NOT_INSIDE.iter().map(|name| format!("--skip {name} ")).collect();
    let run = format!("unshare -m sh -c '{ENTER}' sh {skipped} {} > /root/said 2>&1", TESTS.join(" "));
    ok(&spec, &format!("({run}; echo $? > /root/ended) > /dev/null 2>&1 &")).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(300);
    while ok(&spec, "cat /root/ended 2>&1 || :").await.contains("No such file") {
        assert!(std::time::Instant::now() < deadline, "{}", ok(&spec, "cat /root/said").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let said = ok(&spec, "cat /root/said").await;
    assert_eq!(ok(&spec, "cat /root/ended").await, "0", "{said}");
    for name in MATTER {
        assert!(said.contains(&format!("test {name} ... ok")), "{name} was not run: {said}");
    }
}
