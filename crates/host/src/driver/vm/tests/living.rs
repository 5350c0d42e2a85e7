//! What a machine is, and its life from one start to the next.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_through_a_new_agent_a_pause_and_a_second_start_with_its_files() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    let running = fixture.launch(&spec).await.unwrap();

    // A kernel of its own, root of it, its own name, nothing of the host's.
    assert!(ok(&spec, "uname -r").await.contains("cloud"));
    assert_eq!(ok(&spec, "id -u; cat /etc/hostname; cat /proc/sys/kernel/hostname").await, "0\nisland\nisland");
    assert!(ok(&spec, "mount").await.contains("overlay on / type overlay"));
    ok(&spec, "echo kept > /root/file; echo gone > /bin/extra").await;

    // QEMU is nobody: its own ids, no capability, nothing but its own files, no network.
    let proc = PathBuf::from(format!("/proc/{}", running.init.pid));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let id = spec.slot.id_base();
    assert!(status.contains(&format!("Uid:\t{id}\t{id}\t{id}\t{id}")), "{status}");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Groups:\t \n"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    for name in ["net", "mnt", "ipc", "uts", "pid"] {
        let namespace = |of: &Path| fs::read_link(of.join("ns").join(name)).unwrap();
        assert_ne!(namespace(&proc), namespace(Path::new("/proc/self")), "{name}");
    }
    let mut seen: Vec<_> = fs::read_dir(proc.join("root")).unwrap().flatten().map(|it| it.file_name()).collect();
    seen.sort();
    let expected = ["dev", "etc", "initramfs", "kernel", "lib", "lib32", "lib64", "usr"];
    assert!(seen.iter().all(|name| expected.contains(&name.to_str().unwrap())), "{seen:?}");

    // The agent is replaced: the machine goes on, and the new agent reaches it.
    let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let another = fixture.another();
    // It died in the middle of something.
    let mut qmp = qmp::Qmp::connect(&fixture.driver.shared.socket(&spec.id, QMP_SOCKET)).await.unwrap();
    qmp.execute(&qmp::Stop {}).await.unwrap();
    drop(qmp);
    assert!(another.adopt(&spec.id, &running.init, Vec::new()).await.is_some());
    fixture.driver.shared.bridges().clear();
    assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep");
    let later = InitProcess { start_time: running.init.start_time + 1, ..running.init.clone() };
    assert!(another.adopt(&spec.id, &later, Vec::new()).await.is_none());

    // It stands still, and nothing of it is left but a file; it goes on as if nothing had been.
    assert!(another.usage(&spec.id).unwrap().memory_bytes > 16 << 20);
    let begun = ok(&spec, &format!("cut -d' ' -f22 /proc/{mark}/stat")).await;
    for _ in 0..2 {
        let paused = another.pause(&spec.id).await.unwrap();
        assert!(matches!(paused, Paused::Stored { freed_bytes } if freed_bytes > 16 << 20), "{paused:?}");
        assert!(!running.is_alive() && !another.owns(&spec.id));
        assert_eq!(fixture.leavings(), Vec::<String>::new());
        let [memory, devices] = ["memory", "devices"].map(|name| spec.socket_path.with_file_name(name));
        for file in [&memory, &devices] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let mut steps = Steps::new();
        another.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
        assert!(steps.as_slice().iter().any(|step| step.name == RESTORED), "{steps:?}");
        assert!(!memory.exists() && !devices.exists(), "they would not fit the disk any more");
        assert_eq!(
            ok(&spec, &format!("cut -d' ' -f22 /proc/{mark}/stat; cat /root/file")).await,
            format!("{begun}\nkept")
        );
    }
    // What is no memory of a machine, or not what its devices were, is not gone on with: it starts from its disk.
    for name in ["memory", "devices"] {
        another.pause(&spec.id).await.unwrap();
        fs::write(spec.socket_path.with_file_name(name), b"nonsense").unwrap();
        let mut steps = Steps::new();
        another.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
        assert!(!steps.as_slice().iter().any(|step| step.name == RESTORED), "{steps:?}");
        assert_eq!(ok(&spec, "cat /root/file").await, "kept");
    }

    // Its end, and a second life on the same disk.
    another.settle(&spec.id).await.unwrap();
    another.clean_up(&spec.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());
    drop(another);
    fixture.launch(&spec).await.unwrap();
    assert_eq!(ok(&spec, "cat /root/file; ls /bin/extra").await, "kept\n/bin/extra");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_says_why_and_leaves_nothing() {
    let fixture = Fixture::new();
    let turns = fixture.driver.launches.available_permits();
    let spec = fixture.spec();

    // What a container has left is a directory, which is no disk.
    let foreign = LaunchSpec { lowers: vec![PathBuf::from("/usr").into()], ..spec.clone() };
    let error = fixture.launch(&foreign).await.err().unwrap().to_string();
    assert!(error.contains("that a container has left"), "{error}");

    // No file system on the template: the guest says so, and its words arrive.
    let nonsense = fixture.dir.path().join("nonsense");
    fs::write(&nonsense, vec![7; 1 << 20]).unwrap();
    let broken = LaunchSpec { lowers: vec![Lower { path: "/".into(), file: Some(nonsense) }], ..spec.clone() };
    let error = fixture.launch(&broken).await.err().unwrap().to_string();
    assert!(error.contains("the guest") && error.contains("lower0") && error.contains("erofs"), "{error}");

    // QEMU refuses: its words arrive.
    let huge = LaunchSpec { memory_bytes: 1 << 50, ..spec.clone() };
    let error = fixture.launch(&huge).await.err().unwrap().to_string();
    assert!(error.contains("QEMU"), "{error}");

    // Nobody waits any more.
    let mut steps = Steps::new();
    {
        let launch = fixture.driver.launch(spec.clone(), Arc::new(NoNetwork), &mut steps);
        tokio::select! {
            _ = launch => panic!("it can't be done yet"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while fixture.driver.launches.available_permits() < turns {
        assert!(std::time::Instant::now() < deadline, "{:?}", fixture.leavings());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.leavings(), Vec::<String>::new());
}

#[test]
fn a_whole_system_says_that_it_runs_and_one_without_a_first_program_never_does() {
    let kernel = Kernel::ensure(&cache(), atoll_assets::GUEST).unwrap();
    assert!(kvm::runs(&kernel, Accel::Tcg));
    let nothing = tempfile::NamedTempFile::new().unwrap();
    let empty = Kernel { initramfs: nothing.path().to_owned(), ..kernel };
    assert!(!kvm::runs(&empty, Accel::Tcg));
}
