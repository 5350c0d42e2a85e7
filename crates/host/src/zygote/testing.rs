//! For tests: lets the test executable be its own zygote, with a guest agent in it, its own jail, and its own
//! holder of incomplete images.
//!
//! A hook that runs before `main` looks at how the executable was called. As a guest it says that it is ready, and runs
//! shell commands for whoever connects.

use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_int};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_launch::sys;

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = before_main;

extern "C" fn before_main(count: c_int, arguments: *const *const c_char, _environment: *const *const c_char) {
    let argument = |number: c_int| -> &[u8] {
        if number >= count {
            return b"";
        }
        // SAFETY: the C library passes `count` pointers to C strings that live as long as the process.
        unsafe { CStr::from_ptr(*arguments.offset(number as isize)) }.to_bytes()
    };
    if argument(0) == atoll_launch::NAME.as_bytes() {
        atoll_launch::zygote_main(guest_main);
    }
    if argument(1) == crate::driver::vm::JAIL.as_bytes() {
        crate::driver::vm::jail_main();
    }
    if argument(1) == crate::images::HOLDER.as_bytes() {
        crate::images::holder_main();
    }
}

/// How a guest is told to misbehave: the configuration's member `test`.
fn guest_main() -> Infallible {
    let mut config = String::new();
    let read = std::fs::File::open("/proc/self/fd/4").and_then(|mut file| file.read_to_string(&mut config));
    if read.is_err() || config.contains("\"exit 3\"") {
        sys::exit_now(3);
    }
    // SAFETY: descriptors 3 and 5 are the guest's by the driver's promise, and nothing else here knows of them.
    let (listener, mut ready) = unsafe { (UnixListener::from_raw_fd(3), std::fs::File::from_raw_fd(5)) };
    if ready.write_all(b"ready").is_err() {
        sys::exit_now(4);
    }
    drop(ready);
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || answer(stream));
    }
    sys::exit_now(0)
}

/// First byte: whether to run as a user (`u`) or as root (`r`), or to end the guest itself (`x`); then the command.
fn answer(mut stream: UnixStream) {
    let mut text = String::new();
    let _cut_short = stream.read_to_string(&mut text);
    if text.starts_with('x') {
        sys::exit_now(7);
    }
    let id = if text.starts_with('u') { 1000 } else { 0 };
    let output = Command::new("/bin/sh")
        .args(["-c", text.get(1..).unwrap_or_default()])
        .stdin(Stdio::null())
        .uid(id)
        .gid(id)
        .output();
    let reply = match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            format!("{}\n{text}", output.status.code().unwrap_or(-1))
        }
        Err(error) => format!("-2\n{error}"),
    };
    let _gone = stream.write_all(reply.as_bytes());
}

/// Runs a command in the sandbox behind a socket: exit code and both outputs.
pub(crate) fn run(socket: &Path, who: char, command: &str) -> (i32, String) {
    let name = crate::driver::connectable(socket).expect("the socket's directory is there");
    let mut stream = UnixStream::connect(name.path()).expect("the guest listens");
    stream.write_all(format!("{who}{command}").as_bytes()).expect("the guest reads");
    stream.shutdown(Shutdown::Write).expect("the stream is whole");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the guest answers");
    let (code, output) = reply.split_once('\n').unwrap_or(("-3", &reply));
    (code.parse().unwrap_or(-3), output.to_owned())
}
