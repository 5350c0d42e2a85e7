//! Pausing, ending, and being found again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sandbox_stands_still_and_goes_on() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let id = &sandbox.spec.id;
    sandbox.ok("(while :; do echo x >> /tmp/ticks; sleep 0.01; done) > /dev/null 2>&1 &");
    fixture.driver.pause(id).await.unwrap();
    assert!(fixture.driver.is_paused(id));
    let ticks = sandbox.spec.volume.join("up/tmp/ticks");
    let size = || fs::metadata(&ticks).map_or(0, |meta| meta.len());
    let before = size();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(size(), before, "it ran while paused");
    fixture.driver.resume(id).await.unwrap();
    assert!(!fixture.driver.is_paused(id));
    while size() <= before {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Swap in compressed memory, of this test alone; all of the machine may use it meanwhile.
struct Swap(PathBuf);

impl Swap {
    fn on() -> Self {
        let number = fs::read_to_string("/sys/class/zram-control/hot_add").expect("a kernel with zram");
        let swap = Self(format!("/dev/zram{}", number.trim()).into());
        fs::write(format!("/sys/block/zram{}/disksize", number.trim()), "512M").unwrap();
        for program in ["mkswap", "swapon"] {
            let done = std::process::Command::new(program).arg(&swap.0).output().unwrap();
            assert!(done.status.success(), "{program}: {done:?}");
        }
        swap
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _off = std::process::Command::new("swapoff").arg(&self.0).status();
        let number = self.0.display().to_string().replace("/dev/zram", "");
        let _removed = fs::write("/sys/class/zram-control/hot_remove", number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_what_stands_still_goes_to_swap_and_comes_back_byte_by_byte() {
    let _swap = Swap::on();
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let id = &sandbox.spec.id;
    let program = "import hashlib, os, time
held = os.urandom(65536) * 1000
def tell(name):
    open('/tmp/next', 'w').write(hashlib.sha256(held).hexdigest())
    os.rename('/tmp/next', name)
tell('/tmp/before')
while not os.path.exists('/tmp/again'): time.sleep(0.01)
tell('/tmp/after')";
    sandbox.ok(&format!("python3 -c \"{program}\" > /dev/null 2>&1 &"));
    let told = |name: &str| fs::read_to_string(sandbox.spec.volume.join("up/tmp").join(name)).ok();
    let until = async |name: &str| loop {
        match told(name) {
            Some(sum) => break sum,
            None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    let before = until("before").await;
    fixture.driver.pause(id).await.unwrap();
    let freed = fixture.driver.reclaim(id).await;
    assert!(freed > 40 << 20, "{freed} bytes of more than 65,000,000");
    fixture.driver.resume(id).await.unwrap();
    sandbox.ok("touch /tmp/again");
    assert_eq!(until("after").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sandbox_leaves_nothing_paused_or_not() {
    let fixture = Fixture::new();
    for paused in [false, true] {
        let sandbox = fixture.launch().await;
        sandbox.ok("for i in 1 2 3 4 5; do (trap '' TERM INT; sleep 1000) & done > /dev/null 2>&1");
        if paused {
            fixture.driver.pause(&sandbox.spec.id).await.unwrap();
        }
        fixture.driver.kill(&sandbox.spec.id).await.unwrap();
        let exit = sandbox.running.exited().await.unwrap();
        assert_eq!(exit, Exit { code: told(137), out_of_memory: false });
        assert!(!sandbox.running.is_alive());
        fixture.driver.clean_up(&sandbox.spec.id).await.unwrap();
        fixture.driver.clean_up(&sandbox.spec.id).await.unwrap();
        fs::remove_file(&sandbox.spec.socket_path).unwrap();
        assert_eq!(fixture.leavings(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_the_guest_is_told() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let socket = sandbox.spec.socket_path.clone();
    let asked = tokio::task::spawn_blocking(move || testing::run(&socket, 'x', ""));
    assert_eq!(sandbox.running.exited().await.unwrap(), Exit { code: told(7), out_of_memory: false });
    asked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_outlives_its_driver_and_is_found_again() {
    let mut fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let (id, init) = (sandbox.spec.id.clone(), sandbox.running.init.clone());
    // The instance's name is that of the directory, so a new driver on the same one finds the same cgroups.
    let instance = fixture.dir.path().file_name().unwrap().to_str().unwrap().replace("atoll-driver-", "t");
    let again = ContainerDriver::start(ContainerConfig::new(instance, own_program())).unwrap();
    let old = std::mem::replace(&mut fixture.driver, again);
    old.shut_down().await;
    drop((old, sandbox.running));

    assert_eq!(fixture.driver.leftovers(), std::slice::from_ref(&id));
    let found = fixture.driver.adopt(&id, &init, Vec::new()).await.expect("the same process");
    assert!(found.is_alive());
    assert_eq!(testing::run(&sandbox.spec.socket_path, 'r', "echo still here").1, "still here\n");
    fixture.driver.pause(&id).await.unwrap();
    fixture.driver.resume(&id).await.unwrap();
    fixture.driver.kill(&id).await.unwrap();
    found.exited().await.unwrap();
    assert!(fixture.driver.adopt(&id, &init, Vec::new()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_launch_of_what_runs_is_refused_and_harms_nothing() {
    let fixture = Fixture::new();
    let sandbox = fixture.launch().await;
    let error = fixture.launch_spec(sandbox.spec.clone()).await.err().expect("it runs already");
    assert!(error.to_string().contains("running"), "{error}");
    assert_eq!(sandbox.ok("echo unharmed"), "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_at_once_is_an_error_that_says_so() {
    let fixture = Fixture::new();
    let spec = LaunchSpec { guest_config: serde_json::json!({"test": "exit 3"}), ..fixture.spec() };
    let error = fixture.launch_spec(spec).await.err().expect("it ended");
    let ended =
        told(3).map_or("the guest agent ended".to_owned(), |code| format!("the guest agent ended with code {code}"));
    assert!(error.to_string().contains(&ended), "{error}");
    assert_eq!(fixture.leavings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_says_what_failed_and_leaves_nothing() {
    let fixture = Fixture::new();
    let no_layer = LaunchSpec { lowers: vec![PathBuf::from("/no/such/layer").into()], ..fixture.spec() };
    let error = fixture.launch_spec(no_layer).await.err().unwrap().to_string();
    assert!(error.contains("idmapped mounts") && error.contains("/no/such/layer"), "{error}");

    // The kernel refuses a layer within another; it is the child that learns of it.
    let overlapping =
        LaunchSpec { lowers: vec![PathBuf::from("/usr").into(), PathBuf::from("/").into()], ..fixture.spec() };
    let error = fixture.launch_spec(overlapping).await.err().unwrap().to_string();
    assert!(error.contains("mount overlay: the overlay: "), "{error}");

    struct Broken;
    impl NetworkAttach for Broken {
        fn attach(&self, _slot: &Slot, _netns: BorrowedFd<'_>) -> std::io::Result<()> {
            Err(std::io::Error::other("no cable"))
        }

        fn tap(&self, _slot: &Slot) -> std::io::Result<Option<crate::network::Tap>> {
            Err(std::io::Error::other("no cable"))
        }
    }
    let spec = fixture.spec();
    let error = fixture.driver.launch(spec, Arc::new(Broken), &mut Steps::new()).await.err().unwrap().to_string();
    assert!(error.contains("network") && error.contains("no cable"), "{error}");
    assert_eq!(fixture.leavings(), Vec::<String>::new());
    assert_eq!(fixture.launch().await.ok("echo fine"), "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_nobody_waits_for_is_undone() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    {
        let mut trace = Steps::new();
        let launch = fixture.driver.launch(spec.clone(), Arc::new(NoNetwork), &mut trace);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), launch).await;
        if let Ok(Ok(_)) = waited {
            fixture.driver.clean_up(&spec.id).await.unwrap();
            fs::remove_file(&spec.socket_path).unwrap();
        }
    }
    // The launch may still be on its way; a shut-down of the blocking threads would wait for it, and so do we.
    while !fixture.leavings().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(is_gone(&spec.socket_path));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zygote_that_was_killed_is_replaced() {
    let fixture = Fixture::new();
    let first = fixture.launch().await;
    let before = fixture.driver.zygote_pids();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let second = fixture.launch().await;
    assert_ne!(fixture.driver.zygote_pids(), before);
    assert_eq!(first.ok("echo first"), "first");
    assert_eq!(second.ok("echo second"), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_out_kills_what_took_it_and_is_counted() {
    let fixture = Fixture::new();
    let spec = LaunchSpec { memory_bytes: 128 << 20, ..fixture.spec() };
    let sandbox = fixture.launch_spec(spec).await.unwrap();
    let (code, output) = sandbox.root("dd if=/dev/zero of=/dev/null bs=300M count=1");
    assert_ne!(code, 0, "{output}");
    assert!(fixture.driver.usage(&sandbox.spec.id).unwrap().oom_kills > 0);
    assert_eq!(sandbox.ok("echo alive"), "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_works_without_a_v2_cgroup_tree() {
    let v1 = Hierarchies::detect().unwrap().without_v2();
    if v1.kind() != "v1" {
        // A machine with v2 alone has no such case.
        return;
    }
    let fixture = Fixture::on(Some(v1));
    let sandbox = fixture.launch().await;
    let id = &sandbox.spec.id;
    assert_eq!(sandbox.ok("cat /sys/fs/cgroup/memory/memory.limit_in_bytes"), (512_u64 << 20).to_string());
    sandbox.ok("for i in 1 2 3 4 5; do (trap '' TERM INT; sleep 1000) & done > /dev/null 2>&1");
    assert!(fixture.driver.usage(id).unwrap().cpu_usec > 0);
    fixture.driver.pause(id).await.unwrap();
    assert!(fixture.driver.is_paused(id));
    fixture.driver.resume(id).await.unwrap();
    assert_eq!(sandbox.ok("echo awake"), "awake");
    fixture.driver.pause(id).await.unwrap();
    fixture.driver.kill(id).await.unwrap();
    assert_eq!(sandbox.running.exited().await.unwrap().code, told(137));
    fixture.driver.clean_up(id).await.unwrap();
    assert!(fixture.driver.leftovers().is_empty());
}
