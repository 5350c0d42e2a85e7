//! Memory that is lent: shared by all, written by none.

use std::io::Read;
use std::os::unix::fs::MetadataExt;

use atoll_launch::lend;
use sha2::{Digest, Sha256};

use super::*;

/// Bytes of memory that are this machine's own.
fn own_bytes(machine: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", machine.init.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The file that it was lent, opened once more.
fn lent(machine: &Running) -> File {
    File::open(format!("/proc/{}/fd/{}", machine.init.pid, lend::NUMBER)).unwrap()
}

fn digest(mut file: File) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex::encode(hash.finalize()),
            length => hash.update(&buffer[..length]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_share_a_file_that_none_of_them_can_change_and_give_their_own_memory_back() {
    let fixture = Fixture::alone();
    let place = fixture.dir.path().join("kernel.d/waiting");
    let kept = |file: &str| {
        let all = fs::read_dir(&place).into_iter().flatten().flatten().map(|it| it.path());
        all.filter(|it| it.join("digest").exists() && it.join(file).exists()).count()
    };
    // One is booted, and once it is seen that its like is wanted again, one makes what all later ones go on with.
    for how in ["boot", "copy", "copy"] {
        assert_eq!(fixture.launch_in_steps(&fixture.spec()).await.1, how);
        until(|| kept("memory") > 0).await;
    }
    until(|| kept("disk") > 0).await;
    let specs = [fixture.spec(), fixture.spec()];
    let mut machines = Vec::new();
    for spec in &specs {
        let (machine, how) = fixture.launch_in_steps(spec).await;
        assert_eq!(how, "copy");
        machines.push(machine.unwrap());
    }
    let [one, other] = [&machines[0], &machines[1]].map(lent);
    assert_eq!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());
    let before = digest(one);
    for machine in &machines {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", machine.init.pid, lend::NUMBER)).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert_eq!(u32::from_str_radix(flags, 8).unwrap() & 3, 0, "open for reading and nothing else: {info}");
    }

    // Sixty-four megabytes are taken, and given back when nobody wants them any more.
    let idle = own_bytes(&machines[0]);
    ok(&specs[0], "dd if=/dev/urandom of=/dev/shm/much bs=1M count=64 2> /dev/null").await;
    let full = own_bytes(&machines[0]);
    assert!(full > idle + (60 << 20), "{idle} {full}");
    ok(&specs[0], "echo > /dev/shm/much").await;
    until(|| own_bytes(&machines[0]) < full - (40 << 20)).await;

    // What each has written is its own, also at rest.
    for (number, spec) in specs.iter().enumerate() {
        ok(spec, &format!("echo {number} > /dev/shm/number")).await;
    }
    for (number, spec) in specs.iter().enumerate() {
        for _ in 0..2 {
            fixture.driver.pause(&spec.id).await.unwrap();
            assert_eq!(fixture.launch_in_steps(spec).await.1, RESTORED);
            assert_eq!(ok(spec, "cat /dev/shm/number").await, number.to_string());
        }
    }
    let again = fixture.spec();
    let (machine, how) = fixture.launch_in_steps(&again).await;
    assert_eq!((how, digest(lent(&machine.unwrap()))), ("copy", before));
}
