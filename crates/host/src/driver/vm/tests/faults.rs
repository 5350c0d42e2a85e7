//! What fails or dies half way.

use atoll_launch::lend;

use super::*;

/// QEMU is killed, or something fails, at each point of a pause: it is paused, or it was never asked to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_is_cut_short_leaves_before_or_after() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    let mut running = fixture.launch(&spec).await.unwrap();
    ok(&spec, "echo kept > /root/file").await;
    for point in ["vm::pause::copied", "vm::pause::stopped", "vm::pause::synced", "vm::pause::kept"] {
        // It fails: the machine goes on as if nothing had been.
        let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
        fail::cfg(point, "return").unwrap();
        assert!(fixture.driver.pause(&spec.id).await.is_err(), "{point}");
        fail::remove(point);
        assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{point}");
        assert!(!fixture.driver.is_stored(&spec.id) && running.is_alive(), "{point}");
        let home: Vec<_> = fs::read_dir(spec.socket_path.parent().unwrap()).unwrap().flatten().collect();
        assert!(
            home.iter().all(|it| ["shape", "begun"].iter().any(|name| it.file_name() == *name)
                || it.path().extension().is_some_and(|it| it == "sock")),
            "{point}: {home:?}"
        );

        // QEMU dies.
        let lent = fs::read_link(format!("/proc/{}/fd/{}", running.init.pid, lend::NUMBER)).is_ok();
        let pid = rustix::process::Pid::from_raw(running.init.pid).unwrap();
        fail::cfg_callback(point, move || {
            let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        })
        .unwrap();
        let paused = fixture.driver.pause(&spec.id).await;
        fail::remove(point);
        assert_eq!(paused.is_ok(), fixture.driver.is_stored(&spec.id), "{point}: {paused:?}");
        // Stood it still with all that it was, that is kept; before, its files are. A booted one's memory outlives it for us.
        let whole = point != "vm::pause::copied" && (point != "vm::pause::stopped" || !lent);
        assert_eq!(paused.is_ok(), whole, "{point}: {paused:?}");
        fixture.driver.clean_up(&spec.id).await.unwrap();
        let (launched, how) = fixture.launch_in_steps(&spec).await;
        running = launched.unwrap();
        assert_eq!(how == RESTORED, paused.is_ok(), "{point}: {how}");
        assert_eq!(ok(&spec, "cat /root/file").await, "kept");
        if paused.is_ok() {
            assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{point}");
        }
    }
}

/// Memory is kept for a layer whole or not at all; its files are, and the machine goes on, in any case.
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_can_not_be_kept_for_a_layer_leaves_its_files_and_a_machine_that_goes_on() {
    let fixture = Fixture::new();
    let (spec, driver) = (fixture.spec(), &fixture.driver);
    fixture.launch(&spec).await.unwrap();
    let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let keep = async || {
        let (layer, asked) = (LayerId::new(), std::sync::atomic::AtomicBool::new(false));
        let files = async {
            asked.store(true, Ordering::Relaxed);
            true
        };
        let kept = driver.keep(&spec.id, &layer, true, Box::pin(files)).await.unwrap();
        assert!(asked.load(Ordering::Relaxed), "its files were not kept");
        assert_eq!(kept, driver.has_memory(&layer));
        assert_eq!(driver.memories(), if kept { vec![layer.clone()] } else { Vec::new() });
        driver.forget_memory(&layer).unwrap();
        assert!(driver.memories().is_empty());
        kept
    };
    let goes_on = async |when: &str| assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{when}");
    for point in ["vm::pause::copied", "vm::pause::stopped", "vm::pause::synced", "vm::pause::kept"] {
        fail::cfg(point, "return").unwrap();
        assert!(!keep().await, "{point}");
        fail::remove(point);
        goes_on(point).await;
    }
    // One of an older agent has no shape.
    let shape = spec.socket_path.with_file_name("shape");
    let text = fs::read(&shape).unwrap();
    fs::remove_file(&shape).unwrap();
    assert!(!keep().await);
    goes_on("without a shape").await;
    fs::write(&shape, text).unwrap();
    assert!(keep().await);
    goes_on("kept").await;

    // One that is paused has been written down already.
    driver.pause(&spec.id).await.unwrap();
    assert!(keep().await);
    fs::remove_file(&shape).unwrap();
    assert!(!keep().await);
    fixture.launch(&spec).await.unwrap();
    goes_on("resumed").await;
}

/// Its processors stand still, and somebody writes to it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_a_machine_while_it_stands_still_does_not_cost_it_its_memory() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    fixture.launch(&spec).await.unwrap();
    let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    // Once as it was made, and then as it went on.
    for _ in 0..2 {
        let (socket, times) = (spec.socket_path.clone(), AtomicU8::new(0));
        fail::cfg_callback("vm::pause::stopped", move || {
            if times.fetch_add(1, Ordering::Relaxed) < 2 {
                let socket = socket.clone();
                std::thread::spawn(move || {
                    let mut stream = UnixStream::connect(socket).unwrap();
                    stream.write_all(b"GET / HTTP/1.1\r\nhost: guest\r\n\r\n").unwrap();
                    let _until_it_ends = stream.read_to_end(&mut Vec::new());
                });
                std::thread::sleep(Duration::from_millis(100));
            }
        })
        .unwrap();
        fixture.driver.pause(&spec.id).await.unwrap();
        fail::remove("vm::pause::stopped");
        assert_eq!(fixture.launch_in_steps(&spec).await.1, RESTORED);
        assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep");
    }
}

/// What fails before its memory has been read leaves it paused as it was; the next resume goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_fails_before_it_has_begun_can_be_tried_again() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    fixture.launch(&spec).await.unwrap();
    let mark = ok(&spec, "echo kept > /root/file; sleep 1000 > /dev/null 2>&1 & echo $!").await;
    for point in ["vm::cgroups", "vm::network", "vm::disk", "vm::started", "vm::resume::loaded"] {
        fixture.driver.pause(&spec.id).await.unwrap();
        fail::cfg(point, "return").unwrap();
        assert!(fixture.launch(&spec).await.is_err(), "{point}");
        fail::remove(point);
        assert!(fixture.driver.is_stored(&spec.id) && fixture.driver.begun(&spec.id).is_none(), "{point}");
        assert_eq!(fixture.leavings(), Vec::<String>::new(), "{point}");
        let (launched, how) = fixture.launch_in_steps(&spec).await;
        launched.unwrap();
        assert_eq!(how, RESTORED, "{point}");
        assert_eq!(ok(&spec, &format!("cat /root/file /proc/{mark}/comm")).await, "kept\nsleep", "{point}");
    }
}

/// From the moment on at which its memory is that of a process alone, that process is known to whoever looks for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_with_stored_memory_is_noted_before_that_is_gone() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    fixture.launch(&spec).await.unwrap();
    fixture.driver.pause(&spec.id).await.unwrap();
    assert!(fixture.driver.begun(&spec.id).is_none());
    let running = fixture.launch(&spec).await.unwrap();
    assert_eq!(fixture.driver.begun(&spec.id), Some(running.init.clone()));
    fixture.driver.pause(&spec.id).await.unwrap();
    assert!(fixture.driver.begun(&spec.id).is_none());
}

/// A start that fails at any step leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_while_one_starts_nothing_is_left() {
    let fixture = Fixture::alone();
    for point in ["vm::cgroups", "vm::network", "vm::disk", "vm::started", "vm::ready"] {
        let spec = fixture.spec();
        fail::cfg(point, "return").unwrap();
        let launched = fixture.launch(&spec).await;
        fail::remove(point);
        assert!(launched.is_err(), "{point}");
        assert_eq!(fixture.leavings(), Vec::<String>::new(), "{point}");
        assert!(!fixture.driver.owns(&spec.id), "{point}");
    }
}
