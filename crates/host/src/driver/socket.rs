//! The unix socket of a sandbox: listened on by the host, accepted from inside. Nothing inside has a path to it, and no
//! path inside is followed by the host.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fchmod, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// `sun_path` has room for 108 bytes with its end.
const MAX_PATH: usize = 107;
const BACKLOG: i32 = 256;

/// A name for a socket that fits into an address, whatever its path is. Valid while this value is held.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl SocketName {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A name to connect to the socket at `path` by.
///
/// # Errors
/// When the path is long and its directory can't be opened.
pub fn connectable(path: &Path) -> io::Result<SocketName> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok(SocketName { path: path.to_owned(), _directory: None });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, parent, flags, Mode::empty())?;
    let path = Path::new(OsStr::new("/proc/self/fd")).join(directory.as_raw_fd().to_string()).join(name);
    Ok(SocketName { path, _directory: Some(directory) })
}

/// Binds and listens, replacing a socket that an earlier launch left there. Mode 0600.
pub(super) fn listener(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = connectable(path)?;
    let address = SocketAddrUnix::new(name.path())?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file gets the mode of the socket that is bound to it.
    fchmod(socket.as_fd(), Mode::from_raw_mode(0o600))?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_with_a_long_path_can_be_connected_to_and_is_ours_alone() {
        let top = tempfile::tempdir().unwrap();
        for path in [top.path().join("short.sock"), top.path().join("d".repeat(200)).join("long.sock")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _first = listener(&path).unwrap();
            let _replaced = listener(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            UnixStream::connect(connectable(&path).unwrap().path()).unwrap();
        }
    }
}
