//! What the guest is started with: descriptors from the launcher, or in development a command line.
//!
//! The launcher leaves the control socket (3), the configuration (4), the pipe that says ready (5) and the directory of
//! /proc files (6) to the clone of the zygote that goes on as this program. They are marked close-on-exec at once, so that
//! no program ever sees them. Started with `--listen` and `--config` instead, the guest is an ordinary process: that is how
//! tests and developers run it. In a virtual machine the kernel starts it with the word `vm`, and there is nothing to
//! inherit.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use atoll_rpc::channel::PROOF;

use crate::config::{Config, MAX_CONFIG_BYTES};
use crate::guest::Guest;
use crate::server::Listener;
use crate::vm::{self, port::Port};

const SOCKET: RawFd = 3;
const CONFIG: RawFd = 4;
const READY: RawFd = 5;
const PROC_FOLDER: RawFd = 6;

const USAGE: &str = "the guest agent is started by the host agent with its descriptors; \
for development: atoll-guest --listen unix:PATH|tcp:ADDRESS [--config FILE]";

/// Where requests come from: open already, or to be opened inside the runtime.
pub enum ListenAt {
    Inherited(UnixListener),
    Unix(String),
    Tcp(String),
    /// Of a virtual machine.
    Port(Port),
}

impl ListenAt {
    pub async fn open(self, guest: &Arc<Guest>) -> io::Result<Listener> {
        match self {
            Self::Inherited(listener) => Listener::control(listener),
            Self::Unix(path) => {
                let _ = std::fs::remove_file(&path);
                let listener = UnixListener::bind(&path)
                    .map_err(|error| io::Error::new(error.kind(), format!("listening on {path} failed: {error}")))?;
                Listener::control(listener)
            }
            Self::Port(port) => Ok(Listener::port(port, guest.clone())),
            Self::Tcp(address) => Listener::tcp(&address)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("listening on {address} failed: {error}"))),
        }
    }
}

pub struct Start {
    pub config: Config,
    pub listener: ListenAt,
    pub ready: Option<OwnedFd>,
    pub proc_folder: Option<OwnedFd>,
    pub development: bool,
    /// The kernel is this sandbox's own.
    pub virtual_machine: bool,
}

impl Start {
    pub fn take(arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut listen = None;
        let mut config = None;
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            if argument == vm::ARGUMENT && std::process::id() == 1 {
                return vm::boot();
            }
            if argument == PROOF && std::process::id() == 1 {
                match vm::prove()? {}
            }
            let target = match argument.as_str() {
                "--listen" => &mut listen,
                "--config" => &mut config,
                _ => return Err(usage(&format!("unknown argument '{argument}'"))),
            };
            *target = Some(arguments.next().ok_or_else(|| usage(&format!("{argument} needs a value")))?);
        }
        match listen {
            Some(listen) => Self::development(&listen, config.as_deref()),
            None if config.is_some() => Err(usage("--config needs --listen")),
            None => Self::from_launcher(),
        }
    }

    fn development(listen: &str, config: Option<&str>) -> io::Result<Self> {
        let listener = match listen.split_once(':') {
            Some(("unix", path)) => ListenAt::Unix(path.to_owned()),
            Some(("tcp", address)) => ListenAt::Tcp(address.to_owned()),
            _ => return Err(usage(&format!("'{listen}' is neither unix:PATH nor tcp:ADDRESS"))),
        };
        let config = match config {
            Some(path) => parse(File::open(path)?)?,
            None => Config::default(),
        };
        // As PID 1 would, so that what a program leaves behind is collected here too. Older kernels may refuse.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Ok(Self { config, listener, ready: None, proc_folder: None, development: true, virtual_machine: false })
    }

    pub fn from_launcher() -> io::Result<Self> {
        let [socket, config, ready, proc_folder] = [SOCKET, CONFIG, READY, PROC_FOLDER].map(adopt);
        open_standard_descriptors()?;
        let socket = socket.ok_or_else(|| usage("descriptor 3, the control socket, is missing"))?;
        let config = config.ok_or_else(|| usage("descriptor 4, the configuration, is missing"))?;
        let listener = ListenAt::Inherited(UnixListener::from(socket));
        let config = parse(File::from(config))?;
        Ok(Self { config, listener, ready, proc_folder, development: false, virtual_machine: false })
    }
}

fn usage(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{problem}\n{USAGE}"))
}

fn parse(mut file: File) -> io::Result<Config> {
    // A memfd may have been left at its end by who wrote it.
    file.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES).read_to_end(&mut text)?;
    Config::parse(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Takes over an inherited descriptor and marks it close-on-exec; none if it isn't open.
fn adopt(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that may not be open is harmless and says so.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the number is open, came from the launcher for this very use, and nothing else here has touched it: this
    // runs first in main, once per number.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok().map(|()| descriptor)
}

/// Makes sure that 0, 1 and 2 are something, so that no socket or file ever gets these numbers.
fn open_standard_descriptors() -> io::Result<()> {
    loop {
        let null = match rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(null) => null,
            // A sandbox without /dev/null can still run programs with terminals and pipes.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let number = null.into_raw_fd();
        if number > 2 {
            // SAFETY: the descriptor was opened and released just above.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
            return Ok(());
        }
    }
}
