//! Machines of several processors: each works from the first moment on, however the machine began.

use super::spares::{heir, spare};
use super::*;

/// What each processor has done inside so far, in ticks.
async fn done(spec: &LaunchSpec) -> Vec<u64> {
    let stat = ok(spec, "cat /proc/stat").await;
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let number = fields.next()?.strip_prefix("cpu")?;
        number.parse::<u32>().ok()?;
        Some(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).take(3).sum())
    };
    stat.lines().filter_map(line).collect()
}

/// Waits until every processor has worked since then.
async fn all_work(spec: &LaunchSpec, since: &[u64]) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        let now = done(spec).await;
        assert_eq!(now.len(), since.len());
        if now.iter().zip(since).all(|(now, since)| *now >= since + 10) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "one stands still: {since:?}, then {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sees all its processors, and keeps each busy from now on.
async fn set_to_work(spec: &LaunchSpec) {
    assert_eq!(ok(spec, "nproc").await, spec.vcpus.to_string());
    let since = done(spec).await;
    assert_eq!(since.len(), spec.vcpus as usize);
    for number in 0..spec.vcpus {
        // The 39th is the processor that it runs on.
        let on = ok(spec, &format!("taskset -c {number} cut -d' ' -f39 /proc/self/stat")).await;
        assert_eq!(on, number.to_string());
        ok(spec, &format!("taskset -c {number} sh -c 'while :; do :; done' > /dev/null 2>&1 &")).await;
    }
    all_work(spec, &since).await;
}

async fn every_way_of_beginning(vcpus: u32) {
    let fixture = Fixture::alone();
    let data = fixture.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let pool = Pool::open(&data, &PoolOptions { reserve: 1 << 20, ..PoolOptions::default() }).unwrap();
    let wanted = || {
        let spec = fixture.spec();
        let volume = pool.create_volume(&spec.id, spec.disk_bytes).unwrap().path;
        LaunchSpec { vcpus, volume, ..spec }
    };

    let first = wanted();
    assert_eq!(fixture.launch_in_steps(&first).await.1, "boot");
    set_to_work(&first).await;
    fixture.driver.clean_up(&first.id).await.unwrap();

    // Of the machine that was kept of this shape.
    let waiting = fixture.dir.path().join("kernel.d/waiting");
    let kept = || fs::read_dir(&waiting).into_iter().flatten().flatten().map(|it| it.path());
    until(|| kept().any(|it| it.join("digest").exists() && !it.to_string_lossy().contains("draft"))).await;
    let copy = wanted();
    assert_eq!(fixture.launch_in_steps(&copy).await.1, "copy");
    set_to_work(&copy).await;

    // Paused with its memory while all are busy: each goes on.
    let before = done(&copy).await;
    fixture.driver.pause(&copy.id).await.unwrap();
    assert_eq!(fixture.launch_in_steps(&copy).await.1, RESTORED);
    all_work(&copy, &before).await;

    // Its memory is kept as a template's would be, and another goes on with it.
    let layer = LayerId::new();
    let files = async { pool.snapshot_volume(&copy.id, &layer).is_ok() };
    assert!(fixture.driver.keep(&copy.id, &layer, true, Box::pin(files)).await.unwrap());
    let mut child = wanted();
    child.lowers.insert(0, pool.layer(&layer).unwrap().into());
    child.start_from = StartFrom::Memory;
    fixture.launch(&child).await.unwrap();
    all_work(&child, &before).await;
    assert_eq!(ok(&child, "nproc").await, vcpus.to_string());
    for spec in [&copy, &child] {
        fixture.driver.clean_up(&spec.id).await.unwrap();
    }

    // One that stands ready under another name.
    let spare = LaunchSpec { vcpus, ..spare(&fixture) };
    fixture.launch(&spare).await.unwrap();
    let taker = LaunchSpec { vcpus, ..heir(&fixture, &spare) };
    assert_eq!(fixture.launch_in_steps(&taker).await.1, "take over");
    set_to_work(&taker).await;
    fixture.driver.clean_up(&taker.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());

    fixture.driver.forget_memory(&layer).unwrap();
    for spec in [&first, &copy, &child] {
        pool.delete_volume(&spec.id).unwrap();
    }
    pool.delete_layer(&layer).unwrap();
    assert!(pool.close().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processors_work_however_their_machine_began() {
    every_way_of_beginning(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processors_work_however_their_machine_began() {
    every_way_of_beginning(4).await;
}
