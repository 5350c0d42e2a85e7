//! The guest agent: PID 1 of every sandbox.
//!
//! It runs programs, streams, terminals, files and watches for callers that speak the E2B guest protocol, and answers
//! Atoll's own `GuestService`; see docs/guest.md. It never talks to the outside by itself: requests come in over a
//! socket that the launcher passes.
//!
//! A map: `inherited` takes over what the launcher left, `server` is the way in for requests (`auth`, `users` and
//! `paths` decide who and where), `process` and `exec` run programs on top of `spawn` and `reaper`, `files` moves
//! contents, `filesystem` answers about names and watches them, `metrics`, `cgroup` and `proc_files` tell what is used, `marks` which
//! sandbox it is.
//! In a virtual machine, where no launcher has been before, `vm` makes of the bare kernel what the rest expects.
//! Everything runs on one thread, with a few more for what may wait for a disk.

// The services answer with their own messages, which is narrower than the generated traits ask for.
#![allow(refining_impl_trait)]

mod async_fd;
mod auth;
mod awake;
mod cgroup;
mod config;
mod exec;
mod files;
mod filesystem;
mod guest;
mod inherited;
mod logs;
mod loopback;
mod marks;
mod memory;
mod metrics;
mod paths;
mod proc_files;
mod process;
mod reaper;
mod rights;
mod server;
mod spawn;
mod startup;
mod trust;
mod users;
mod vm;

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::guest::Guest;
use crate::inherited::Start;
use crate::server::Listener;

/// Threads for file work, and how long an idle one stays.
const FILE_THREADS: usize = 8;
const FILE_THREAD_STACK: usize = 256 * 1024;
const FILE_THREAD_IDLE: Duration = Duration::from_millis(500);

/// Locks a mutex. None is held while its data is inconsistent, so one that a panic poisoned is as good as any.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what may wait for a disk on a thread of its own.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(format!("file work was abandoned: {error}")).into()),
    }
}

fn main() -> ExitCode {
    memory::be_thrifty();
    // The zygote must stay single-threaded and small: it gets no runtime, no configuration, nothing.
    if std::env::args_os().eq([atoll_launch::NAME]) {
        atoll_launch::zygote_main(in_a_sandbox);
    }
    ExitCode::from(end_of(Start::take(std::env::args().skip(1))))
}

/// What a clone of the zygote goes on with.
fn in_a_sandbox() -> Infallible {
    std::process::exit(end_of(Start::from_launcher()).into())
}

/// Runs to the end, and answers with the exit code.
fn end_of(start: io::Result<Start>) -> u8 {
    match start.and_then(run) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("atoll-guest: {error}");
            1
        }
    }
}

fn run(start: Start) -> io::Result<()> {
    let Start { config, listener, ready, proc_folder, development, virtual_machine } = start;
    spawn::prepare_guest();
    // What the guest makes for callers gets the modes that the protocol promises.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if !development {
        loopback::bring_up();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(FILE_THREADS)
        .thread_stack_size(FILE_THREAD_STACK)
        .thread_keep_alive(FILE_THREAD_IDLE)
        .build()?;
    runtime.block_on(async move {
        let children = reaper::Reaper::listen()?;
        let guest = Guest::new(config, proc_folder, development, virtual_machine);
        tokio::spawn(guest.reaper.clone().run(children));
        // A virtual machine is told later.
        if !virtual_machine {
            prepare(&guest).await;
        }
        let listener = listener.open(&guest).await?;
        if let Some(ready) = ready {
            // The socket queues connections already, and the very next thing done is to accept them.
            rustix::io::write(&ready, b"ready\n")?;
            memory::map_program();
        }
        if !virtual_machine {
            marks::leave(&guest);
            begin(&guest);
        }
        server::serve(guest, listener).await;
        Ok(())
    })
}

/// What is due before the first request, once it is known which sandbox this is.
async fn prepare(guest: &Arc<Guest>) {
    if let Some(port) = guest.config().tcp_port {
        match Listener::loopback(port).await {
            Ok(listener) => drop(tokio::spawn(server::serve(guest.clone(), listener))),
            Err(error) => guest.logs.error(format!("listening on 127.0.0.1:{port} failed: {error}")),
        }
    }
    trust::begin(guest);
}

/// What is due then, beside requests.
fn begin(guest: &Arc<Guest>) {
    guest.logs.info(format!("guest of sandbox {} is ready", guest.config().sandbox_id));
    startup::begin(guest);
}
