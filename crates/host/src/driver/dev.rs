//! The small file system that is made for each sandbox on the host's side: device nodes and the files behind
//! `/proc/meminfo` and its like.
//!
//! A tmpfs mounted inside a user namespace opens no device nodes, so this one is made outside, by the agent, and given
//! to the child as a detached mount. The nodes are the sandbox's own: shared ones would let a sandbox watch (inotify) or
//! lock (flock) what its neighbours do with them. Layout: `dev/`, `empty/`, `cgroup/`, and the files beside them. The
//! guest agent gets its root directory as descriptor 6.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_launch::shared::{CGROUPS, DEV, EMPTY};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// Root inside can write here, so it is small.
const SIZE: &str = "1m";
const INODES: &str = "256";

const NODES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the file system, owned by the sandbox's root (`id_base` on the host), with the given files at its top.
pub(super) fn make(id_base: u32, cgroups: &[String], files: &[(&str, String)]) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", SIZE), ("nr_inodes", INODES), ("mode", "0755")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    let maker = Maker { root: mount.as_fd(), owner: id_base };

    for dir in [DEV, "dev/pts", "dev/shm", "dev/mqueue"] {
        maker.dir(dir)?;
    }
    for (name, major, minor) in NODES {
        maker.node(&format!("{DEV}/{name}"), makedev(*major, *minor))?;
    }
    for (name, target) in LINKS {
        symlinkat(*target, mount.as_fd(), format!("{DEV}/{name}"))?;
        maker.own(&format!("{DEV}/{name}"))?;
    }
    // Root on the host owns these: they only lie under other mounts.
    maker.closed_dir(EMPTY)?;
    maker.closed_dir(CGROUPS)?;
    for name in cgroups.iter().filter(|name| !name.is_empty()) {
        maker.closed_dir(&format!("{CGROUPS}/{name}"))?;
    }
    for (name, text) in files {
        maker.file(name, text)?;
    }
    Ok(mount)
}

struct Maker<'a> {
    root: BorrowedFd<'a>,
    owner: u32,
}

impl Maker<'_> {
    fn own(&self, path: &str) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        Ok(chownat(self.root, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Modes are set apart from making things: the agent's mask may take bits away.
    fn mode(&self, path: &str, mode: u32) -> io::Result<()> {
        Ok(chmodat(self.root, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    fn closed_dir(&self, path: &str) -> io::Result<()> {
        mkdirat(self.root, path, Mode::from_raw_mode(0o755))?;
        self.mode(path, 0o755)
    }

    fn dir(&self, path: &str) -> io::Result<()> {
        self.closed_dir(path)?;
        self.own(path)
    }

    fn node(&self, path: &str, device: u64) -> io::Result<()> {
        mknodat(self.root, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        self.mode(path, 0o666)?;
        self.own(path)
    }

    fn file(&self, path: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o444);
        let mut file = std::fs::File::from(openat(self.root, path, flags, mode)?);
        file.write_all(text.as_bytes())?;
        self.mode(path, 0o444)?;
        self.own(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::statat;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    #[test]
    fn everybody_inside_can_read_it_whatever_the_mask_of_the_agent_is() {
        let worker = std::thread::spawn(|| {
            // SAFETY: gives this thread a mask and working directory of its own, and touches no descriptor.
            unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
            rustix::process::umask(Mode::from_raw_mode(0o077));
            make(0x7001_0000, &["memory".to_owned()], &[("meminfo", "x".to_owned())]).unwrap()
        });
        let made = worker.join().unwrap();
        let mode = |path: &str| statat(&made, path, AtFlags::SYMLINK_NOFOLLOW).unwrap().st_mode & 0o777;
        assert_eq!(mode("dev"), 0o755);
        assert_eq!(mode("dev/null"), 0o666);
        assert_eq!(mode("meminfo"), 0o444);
        assert_eq!(mode("cgroup/memory"), 0o755);
        assert_eq!(statat(&made, "dev/null", AtFlags::empty()).unwrap().st_uid, 0x7001_0000);
    }
}
