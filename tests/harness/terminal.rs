//! A terminal for a program under test: what a person at a keyboard would see and type.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, Termios, Winsize};

use crate::wait::PATIENCE;

pub struct Terminal {
    controller: std::fs::File,
    /// Held open so that the terminal's mode can be read after the program has ended.
    user: OwnedFd,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts `command` on a terminal of so many columns and rows.
    pub fn start(mut command: Command, cols: u16, rows: u16) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("openpt");
        grantpt(&controller).expect("grantpt");
        unlockpt(&controller).expect("unlockpt");
        let name = ptsname(&controller, Vec::new()).expect("ptsname");
        let user = std::fs::File::options().read(true).write(true).open(name.to_str().expect("name")).expect("pts");
        set_size(&controller, cols, rows);
        let end = || Stdio::from(user.try_clone().expect("terminal"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        let take = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: only two system calls between fork and exec; nothing is allocated.
        unsafe { command.pre_exec(take) };
        let child = command.spawn().expect("starting the program on a terminal");
        drop(command);
        let controller = std::fs::File::from(controller);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (controller.try_clone().expect("terminal"), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("seen").push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { controller, user: user.into(), child, seen }
    }

    pub fn mode(&self) -> Termios {
        termios::tcgetattr(&self.user).expect("the terminal's mode")
    }

    pub fn resize(&self, cols: u16, rows: u16) {
        set_size(&self.controller, cols, rows);
    }

    pub fn type_in(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).expect("typing");
    }

    /// Waits until `text` is on the screen, and forgets what came up to it.
    pub fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        loop {
            let mut seen = self.seen.lock().expect("seen");
            if let Some(place) = seen.find(text) {
                seen.drain(..place + text.len());
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {text:?} on the terminal; there is: {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The rest of the line that it is at, once it is there.
    #[must_use]
    pub fn line(&self) -> String {
        let begin = Instant::now();
        loop {
            let mut seen = self.seen.lock().expect("seen");
            if let Some(end) = seen.find("\r\n") {
                return seen.drain(..end + 2).collect::<String>().trim_end().to_owned();
            }
            assert!(begin.elapsed() < PATIENCE, "no end of line on the terminal; there is: {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for the program") {
                return status;
            }
            let seen = self.seen.lock().expect("seen").clone();
            assert!(begin.elapsed() < PATIENCE, "the program on the terminal does not end; there is: {seen:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: impl AsFd, cols: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(terminal, size).expect("setting the terminal's size");
}
