//! `atoll run`: bytes, exit codes, signals, terminals, and that the sandbox always goes.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;

use atoll_model::SandboxId;
use atoll_tests::command::{piped, signal, text, with_input};
use atoll_tests::{Atoll, Terminal, assert_memory, until};

/// Bytes that no text handling leaves as they are.
fn awkward_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| ((place * 7919) >> 3) as u8).collect()
}

async fn running(atoll: &Atoll) -> Vec<SandboxId> {
    let list = atoll.client().list_sandboxes(&atoll_client::ListSandboxes::default()).await.expect("list");
    list.items.into_iter().map(|sandbox| sandbox.id).collect()
}

async fn until_no_sandbox_is_left(atoll: &Atoll) {
    until("the sandbox to be gone", || async { running(atoll).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_program_prints_its_answer_and_its_sandbox_is_gone() {
    let atoll = Atoll::start().await;
    assert_eq!(text(atoll.cli(&["run", "--", "python3", "-c", "print(6*7)"])), "42\n");
    assert!(running(&atoll).await.is_empty());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn the_exit_code_is_the_programs() {
    let atoll = Atoll::start().await;
    for (program, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["sh", "-c", "kill -SEGV $$"], 139),
        (&["there-is-no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let status = atoll.cli(&[&["run", "--"], program].concat()).output().expect("run").status;
        assert_eq!(status.code(), Some(code), "{program:?}");
    }
    assert!(running(&atoll).await.is_empty());
}

#[tokio::test]
async fn stdin_stdout_and_stderr_are_byte_exact_and_apart() {
    let atoll = Atoll::start().await;
    let input = awkward_bytes(3_000_001);
    let output = with_input(atoll.cli(&["run", "--", "sh", "-c", "cat > all; cat all; cat all >&2"]), &input);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == input, "stdout differs: {} bytes of {}", output.stdout.len(), input.len());
    assert!(output.stderr == input, "stderr differs: {} bytes of {}", output.stderr.len(), input.len());
}

#[tokio::test]
async fn the_streams_can_be_opened_by_name_whoever_the_user_is() {
    let atoll = Atoll::start().await;
    for user in ["user", "root"] {
        let script = "cat /dev/stdin > /dev/stdout; echo to stderr > /dev/stderr";
        let output = with_input(atoll.cli(&["run", "-u", user, "--", "sh", "-c", script]), b"from stdin");
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(texts, ["from stdin", "to stderr\n"], "{user}");
    }
}

#[tokio::test]
async fn a_program_that_reads_no_input_is_not_held_up_by_it() {
    let atoll = Atoll::start().await;
    let output = with_input(atoll.cli(&["run", "--", "echo", "done"]), &awkward_bytes(20_000_000));
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"done\n"[..]));
}

#[tokio::test]
async fn the_environment_and_the_users_wishes_arrive() {
    let atoll = Atoll::start().await;
    let script = "echo \"$A|$B\"; id -un; pwd; nproc; grep MemTotal /proc/meminfo";
    let options = ["--env", "A=a=b", "-e", "B", "-u", "root", "-w", "/tmp", "--vcpus", "2", "--memory", "300"];
    let mut command = atoll.cli(&[&["run"], &options[..], &["--", "sh", "-c", script]].concat());
    command.env("B", "from here");
    let said = text(command);
    assert_memory(said.strip_prefix("a=b|from here\nroot\n/tmp\n2\n").expect(&said), 300);
}

#[tokio::test]
async fn signals_reach_the_program_and_the_sandbox_goes_with_it() {
    let atoll = Atoll::start().await;
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = piped(atoll.cli(&["run", "--", "bash", "-c", script]));
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("stdout").read_exact(&mut ready).expect("ready");
    signal(&child, libc::SIGINT);
    let output = child.wait_with_output().expect("output");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &b"caught\n"[..]));

    let mut child = piped(atoll.cli(&["run", "--", "sh", "-c", "echo ready; exec sleep 1000"]));
    child.stdout.as_mut().expect("stdout").read_exact(&mut ready).expect("ready");
    signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().expect("wait").code(), Some(143));
    assert!(running(&atoll).await.is_empty());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn ctrl_c_at_the_terminal_reaches_a_program_that_has_none() {
    let atoll = Atoll::start().await;
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut terminal = Terminal::start(atoll.cli(&["run", "--", "bash", "-c", script]), 80, 24);
    terminal.wait_for("ready");
    terminal.type_in("\x03");
    terminal.wait_for("caught");
    assert_eq!(terminal.wait().code(), Some(5));
    assert!(running(&atoll).await.is_empty());

    // Whatever the program makes of it, the third ends the command.
    let script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done";
    let mut terminal = Terminal::start(atoll.cli(&["run", "--", "bash", "-c", script]), 80, 24);
    terminal.wait_for("ready");
    for _ in 0..2 {
        terminal.type_in("\x03");
        terminal.wait_for("no\r\n");
    }
    terminal.type_in("\x03");
    assert_eq!(terminal.wait().code(), Some(130));
    assert!(running(&atoll).await.is_empty());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_signal_does_not_wait_behind_input_that_nobody_reads() {
    let atoll = Atoll::start().await;
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let mut child = piped(atoll.cli(&["run", "--", "bash", "-c", script]));
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("stdout").read_exact(&mut ready).expect("ready");
    let mut stdin = child.stdin.take().expect("stdin");
    let feeding = std::thread::spawn(move || stdin.write_all(&awkward_bytes(64_000_000)).is_err());
    // Fed until nothing moves any more: everything between here and the program is full.
    let waiting = format!("/proc/{}/io", child.id());
    let mut before = String::new();
    until("the input to be stuck", || {
        let now = std::fs::read_to_string(&waiting).expect("io");
        let (stuck, read) = (now == before, now.lines().next().is_some_and(|line| line.len() > "rchar: 100000".len()));
        before = now;
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            (stuck && read).then_some(())
        }
    })
    .await;
    signal(&child, libc::SIGUSR1);
    let output = child.wait_with_output().expect("output");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(9), &b"caught\n"[..]));
    assert!(feeding.join().expect("feeding"), "all of the input went somewhere");
}

#[tokio::test]
async fn when_nobody_reads_the_output_the_program_ends() {
    let atoll = Atoll::start().await;
    let mut child = piped(atoll.cli(&["run", "--", "yes"]));
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 100]).expect("some output");
    drop(stdout);
    assert_eq!(child.wait().expect("wait").code(), Some(141));
    assert!(running(&atoll).await.is_empty());
}

#[tokio::test]
async fn after_a_kill_9_of_the_client_the_sandbox_ends_by_itself() {
    let atoll = Atoll::start().await;
    let mut child = piped(atoll.cli(&["run", "--", "sh", "-c", "echo ready; exec sleep 1000"]));
    child.stdout.as_mut().expect("stdout").read_exact(&mut [0; 6]).expect("ready");
    assert_eq!(running(&atoll).await.len(), 1);
    child.kill().expect("kill");
    assert_eq!(child.wait().expect("wait").signal(), Some(libc::SIGKILL));
    until_no_sandbox_is_left(&atoll).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_program_that_says_nothing_is_kept_alive_longer_than_the_idle_timeout() {
    let atoll = Atoll::start().await;
    assert_eq!(text(atoll.cli(&["run", "--", "sh", "-c", "sleep 20; echo still here"])), "still here\n");
}

#[tokio::test]
async fn a_kept_sandbox_lives_on_without_a_timeout() {
    let atoll = Atoll::start().await;
    let output = atoll.cli(&["run", "--keep", "--", "touch", "/tmp/mark"]).output().expect("run");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let id: SandboxId = stderr.trim().rsplit(' ').next().expect("id").parse().expect(&stderr);
    assert_eq!(atoll.client().get_sandbox(&id).await.expect("get").timeout_sec, 0);
    assert_eq!(text(atoll.cli(&["exec", id.as_str(), "--", "ls", "/tmp"])), "mark\n");
}

#[tokio::test]
async fn a_terminal_is_a_terminal_and_is_given_back_as_it_was() {
    let atoll = Atoll::start().await;
    let mut terminal = Terminal::start(atoll.cli(&["run", "-it", "--", "bash", "--norc"]), 101, 33);
    terminal.wait_for("$ ");
    let raw = terminal.mode();
    terminal.type_in("stty size; echo $TERM; test -t 0 && echo a terminal\r");
    terminal.wait_for("33 101\r\nxterm\r\na terminal\r\n");
    terminal.resize(120, 44);
    terminal.type_in("until test \"$(stty size)\" = '44 120'; do sleep 0.05; done; echo re''sized\r");
    terminal.wait_for("resized");
    terminal.type_in("sleep 1000\r");
    terminal.wait_for("sleep 1000\r\n");
    terminal.type_in("\x03");
    terminal.wait_for("^C");
    // What is typed before it has the terminal again may go to nobody.
    terminal.wait_for("$ ");
    terminal.type_in("exit 3\r");
    assert_eq!(terminal.wait().code(), Some(3));
    let flags = |mode: rustix::termios::Termios| (mode.local_modes, mode.input_modes, mode.output_modes);
    assert!(terminal.mode().local_modes.contains(rustix::termios::LocalModes::ECHO));
    assert_ne!(flags(raw), flags(terminal.mode()), "the terminal was never in raw mode");
    assert!(running(&atoll).await.is_empty());
}

#[tokio::test]
async fn without_a_terminal_asking_for_one_is_an_error_that_says_so() {
    let atoll = Atoll::start().await;
    let output = atoll.cli(&["run", "-t", "--", "true"]).output().expect("run");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"));
}
