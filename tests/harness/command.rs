//! Commands under test, run to their end.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

/// Runs `command` with `input` on stdin and answers with everything that it wrote.
pub fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let mut stdin = child.stdin.take().expect("stdin");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Who does not read all of it is no failure.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("output")
    })
}

/// Starts `command` with pipes.
pub fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn")
}

/// What it wrote to stdout, as text; the test fails when it failed.
pub fn text(mut command: Command) -> String {
    let output = command.output().expect("output");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

pub fn signal(child: &Child, signal: i32) {
    // SAFETY: kill has no memory effects; the pid is of our own child, not yet waited for.
    unsafe { libc::kill(child.id().cast_signed(), signal) };
}
