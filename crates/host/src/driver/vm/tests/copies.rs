//! Machines that go on with what others were.

use std::os::unix::fs::MetadataExt;

use atoll_launch::lend;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_disk_has_its_files_and_goes_its_own_way() {
    let fixture = Fixture::new();
    let data = fixture.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let options = PoolOptions { reserve: 1 << 20, ..PoolOptions::default() };
    let pool = Pool::open(&data, &options).unwrap();
    let on_pool = |mut spec: LaunchSpec| {
        spec.volume = pool.create_volume(&spec.id, spec.disk_bytes).unwrap().path;
        spec
    };
    let parent = on_pool(fixture.spec());
    fixture.launch(&parent).await.unwrap();
    ok(&parent, "echo parent > /root/file").await;
    fixture.driver.settle(&parent.id).await.unwrap();
    let layer = LayerId::new();
    pool.snapshot_volume(&parent.id, &layer).unwrap();

    let mut child = on_pool(fixture.spec());
    child.lowers.insert(0, pool.layer(&layer).unwrap().into());
    fixture.launch(&child).await.unwrap();
    assert_eq!(ok(&child, "cat /root/file").await, "parent");
    ok(&child, "echo child > /root/file; sync").await;
    assert_eq!(ok(&parent, "cat /root/file").await, "parent");
    assert_ne!(ok(&child, "cat /etc/machine-id").await, ok(&parent, "cat /etc/machine-id").await);

    for spec in [&parent, &child] {
        fixture.driver.clean_up(&spec.id).await.unwrap();
        pool.delete_volume(&spec.id).unwrap();
    }
    pool.delete_layer(&layer).unwrap();
    assert!(pool.close().unwrap());
}

/// Two hosts, each with a driver and a pool of its own: what one packs, the other goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_has_travelled_goes_on_elsewhere_with_memory_or_begins_with_its_files() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let pool = |fixture: &Fixture| {
        let data = fixture.dir.path().join("data");
        fs::create_dir(&data).unwrap();
        Pool::open(&data, &PoolOptions { reserve: 1 << 20, ..PoolOptions::default() }).unwrap()
    };
    let (pool_here, pool_there) = (pool(&here), pool(&there));
    let on_pool = |pool: &Pool, mut spec: LaunchSpec| {
        spec.volume = pool.create_volume(&spec.id, spec.disk_bytes).unwrap().path;
        spec
    };
    let parent = on_pool(&pool_here, here.spec());
    here.launch(&parent).await.unwrap();
    ok(&parent, "echo parent > /root/file").await;
    let mark = ok(&parent, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let layer = LayerId::new();
    let files = async { pool_here.snapshot_volume(&parent.id, &layer).is_ok() };
    assert!(here.driver.keep(&parent.id, &layer, true, Box::pin(files)).await.unwrap());
    let version = here.driver.vm_version().unwrap();
    assert!(version.starts_with("QEMU "), "{version}");
    assert_eq!(here.driver.memory_version(&layer).as_ref(), Some(&version));

    let disk = disk::of_layer(&pool_here.layer(&layer).unwrap()).unwrap();
    let packed = || {
        let mut bytes = Vec::new();
        here.driver.pack_machine(&layer, &disk, &mut bytes).unwrap();
        bytes
    };
    let (bundle, size) = (packed(), packed().len() as u64);
    assert!(bundle == packed(), "the same layer gives the same bytes");
    println!("{} MiB for a machine of 256 MiB", size >> 20);
    let import = |bytes: &[u8]| {
        let unpack = |disk: &File| there.driver.unpack_machine(&layer, &mut &*bytes, disk);
        pool_there.import_disk(&layer, "of this", size, unpack)
    };
    assert!(import(&bundle[..bundle.len() / 2]).is_err() && pool_there.layer(&layer).is_none());
    assert!(!there.driver.has_memory(&layer));
    import(&bundle).unwrap();
    assert_eq!(there.driver.memory_version(&layer).as_ref(), Some(&version));

    let child = |start_from: StartFrom| {
        let mut spec = on_pool(&pool_there, there.spec());
        spec.lowers = vec![pool_there.layer(&layer).unwrap().into(), parent.lowers[0].clone()];
        spec.start_from = start_from;
        spec
    };
    let sleeping = "for it in /proc/[0-9]*/comm; do read -r name < $it; [ $name != sleep ] || echo yes; done 2>&-";
    let alive = child(StartFrom::Memory);
    there.launch(&alive).await.unwrap();
    assert_eq!(ok(&alive, &format!("cat /proc/{mark}/comm /root/file")).await, "sleep\nparent");
    assert_ne!(ok(&alive, "cat /etc/machine-id").await, ok(&parent, "cat /etc/machine-id").await);
    let anew = child(StartFrom::Files);
    there.launch(&anew).await.unwrap();
    assert_eq!(ok(&anew, &format!("cat /root/file; {sleeping}")).await, "parent");
    // Memory of a machine of another size is none to it.
    let larger = LaunchSpec { memory_bytes: 320 << 20, ..child(StartFrom::Memory) };
    let error = there.launch(&larger).await.unwrap_err().to_string();
    assert!(error.contains("no memory is kept here"), "{error}");
    let larger = LaunchSpec { memory_bytes: 320 << 20, ..child(StartFrom::Either) };
    there.launch(&larger).await.unwrap();
    assert_eq!(ok(&larger, &format!("cat /root/file; {sleeping}")).await, "parent");

    for (fixture, specs) in [(&here, vec![&parent]), (&there, vec![&alive, &anew, &larger])] {
        for spec in specs {
            fixture.driver.clean_up(&spec.id).await.unwrap();
        }
    }
    for (fixture, pool) in [(&here, pool_here), (&there, pool_there)] {
        fixture.driver.forget_memory(&layer).unwrap();
        pool.delete_layer(&layer).unwrap();
        for id in pool.list_volumes().unwrap() {
            pool.delete_volume(&id).unwrap();
        }
        assert!(pool.close().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_a_shape_are_booted_once_and_copies_of_it_have_nothing_in_common() {
    let fixture = Fixture::alone();
    let first = fixture.spec();
    assert_eq!(fixture.launch_in_steps(&first).await.1, "boot");
    let waiting = fixture.dir.path().join("kernel.d/waiting");
    let kept = || fs::read_dir(&waiting).unwrap().flatten().map(|it| it.path()).collect::<Vec<_>>();
    until(|| kept().iter().any(|it| it.join("digest").exists() && !it.to_string_lossy().contains("draft"))).await;
    let place = kept().remove(0);
    assert_eq!(fs::metadata(&waiting).unwrap().permissions().mode() & 0o777, 0o700);

    // Whatever the size of its disk.
    let second = LaunchSpec { disk_bytes: 300 << 20, hostname: "atoll".to_owned(), ..fixture.spec() };
    let third = fixture.spec();
    let again = fixture.spec();
    for spec in [&second, &third, &again] {
        assert_eq!(fixture.launch_in_steps(spec).await.1, "copy");
    }
    // One of a size that was wanted twice is kept that stands on the image.
    until(|| kept().iter().filter(|it| it.join("digest").exists()).count() == 2).await;
    let fourth = fixture.spec();
    let (machine, how) = fixture.launch_in_steps(&fourth).await;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let lent = Path::new("/proc").join(machine.unwrap().init.pid.to_string()).join(format!("fd/{}", lend::NUMBER));
    let standing = kept().into_iter().filter(|it| it.join("disk").exists());
    let standing = standing.filter(|it| inode(&it.join("memory")) == inode(&lent)).count();
    assert_eq!((how, standing), ("copy", 1));
    let facts = [
        "cat /etc/machine-id",
        "cat /proc/sys/kernel/random/boot_id",
        "dd if=/dev/urandom bs=16 count=1 2>/dev/null | od -x",
    ];
    for fact in facts {
        let mut all = Vec::new();
        for spec in [&first, &second, &third, &fourth] {
            all.push(ok(spec, fact).await);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4, "{fact}: {all:?}");
    }
    assert_eq!(ok(&second, "cat /proc/sys/kernel/hostname").await, "atoll");
    assert!(ok(&second, "cat /sys/class/block/vd*/size").await.lines().any(|it| it == "614400"));
    // It is the right time.
    for spec in [&third, &fourth] {
        let now = ok(spec, "date +%s").await.parse::<i64>().unwrap();
        assert!((chrono::Utc::now().timestamp() - now).abs() < 5, "{now}");
        // And it can be paused as any other.
        ok(spec, "echo here > /root/file").await;
        fixture.driver.pause(&spec.id).await.unwrap();
        assert_eq!(fixture.launch_in_steps(spec).await.1, RESTORED);
        assert_eq!(ok(spec, "cat /root/file").await, "here");
    }

    // One that is not what it was is not used by the next agent.
    for place in kept() {
        let changed = if place.join("disk").exists() { "disk" } else { "memory" };
        let file = fs::File::options().read(true).write(true).open(place.join(changed)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 5 << 20).unwrap();
    }
    let another = fixture.another();
    let fifth = fixture.spec();
    let mut steps = Steps::new();
    another.launch(fifth, Arc::new(NoNetwork), &mut steps).await.unwrap();
    assert_eq!(steps.as_slice().last().unwrap().name, "boot");
    // One that QEMU does not take is not used either, and the machine boots all the same.
    until(|| place.join("digest").exists()).await;
    fs::write(place.join("devices"), b"nonsense").unwrap();
    let sixth = fixture.spec();
    another.launch(sixth, Arc::new(NoNetwork), &mut steps).await.unwrap();
    assert_eq!(steps.as_slice().last().unwrap().name, "boot");
}
