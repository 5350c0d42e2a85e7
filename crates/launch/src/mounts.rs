//! The file systems of a sandbox, made by the child in its own mount namespace.
//!
//! Every name is looked up only after the pivot, inside the new root, so that whatever symbolic links an image holds
//! lead nowhere else. Sources come from the old root, which is the working directory until it is detached.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_remount, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::child::{Attempt, Attempted};
use super::{shared, sys};

/// Layers below the writable one; the kernel's own bound is far higher.
pub const MAX_LOWERS: usize = 16;

/// Volumes that one sandbox may have mounted.
pub const MAX_VOLUMES: usize = 8;

/// Directories of the zygote's root, besides those of [`lower_dir`].
pub(super) const ROOT_DIRS: &[&str] = &["proc", "sys", "shared", "volume", "root"];

/// Terminals of one sandbox: the kernel has 4,096 for all.
const MAX_TERMINALS: &str = "256";
/// Group `tty`, the same in every distribution.
const TTY_GROUP: &str = "5";

/// Kernel-wide things in /proc that are nobody's business inside. Files become /dev/null, directories empty.
const MASKED_IN_PROC: &[&str] = &[
    "acpi",
    "asound",
    "cmdline",
    "config.gz",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "pressure",
    "sched_debug",
    "schedstat",
    "scsi",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys"];
const MASKED_IN_SYS: &[&str] = &["firmware", "devices/virtual/powercap", "devices/virtual/dmi", "kernel/debug"];

/// Of the lists above, what this kernel has.
pub(super) struct Masks {
    proc_files: Vec<String>,
    proc_dirs: Vec<String>,
    proc_read_only: Vec<String>,
    sys_dirs: Vec<String>,
    /// Of the files that a sandbox gets its own of, those that exist, with their name in the shared directory.
    bound: Vec<(&'static str, &'static str)>,
}

impl Masks {
    pub(super) fn of_this_kernel() -> Self {
        let below = |top: &str, names: &[&str], dirs: bool| -> Vec<String> {
            let paths = names.iter().map(|name| format!("{top}/{name}"));
            paths.filter(|path| fs::metadata(path).is_ok_and(|it| it.is_dir() == dirs)).collect()
        };
        Self {
            proc_files: below("/proc", MASKED_IN_PROC, false),
            proc_dirs: below("/proc", MASKED_IN_PROC, true),
            proc_read_only: below("/proc", READ_ONLY_IN_PROC, true),
            sys_dirs: below("/sys", MASKED_IN_SYS, true),
            bound: shared::BOUND_FILES.iter().copied().filter(|(_, path)| fs::metadata(path).is_ok()).collect(),
        }
    }
}

/// Where layer number `layer` is attached while the overlay is mounted.
pub(super) fn lower_dir(layer: usize) -> String {
    format!("/lower{layer}")
}

fn attach(mount: BorrowedFd<'_>, path: &str) -> Attempt<()> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).attempted(|| format!("attaching {path}"))
}

/// Attaches at a directory of the image, made if the image lacks it.
fn attach_making(mount: BorrowedFd<'_>, path: &str, mode: u32) -> Attempt<()> {
    match attach(mount, path) {
        Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(mode).create(path).attempted(|| format!("making {path}"))?;
            attach(mount, path)
        }
        result => result,
    }
}

/// A new file system that is attached nowhere yet. An option without a value is a flag.
fn new_mount(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Attempt<OwnedFd> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            if value.is_empty() {
                fsconfig_set_flag(context.as_fd(), *key)?;
            } else {
                fsconfig_set_string(context.as_fd(), *key, *value)?;
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().attempted(|| format!("making a {kind}"))
}

/// Attaches the layers and mounts the root file system over them.
pub(super) fn overlay(volume: &OwnedFd, lowers: &[OwnedFd], shared: &OwnedFd) -> Attempt<()> {
    attach(shared.as_fd(), "/shared")?;
    attach(volume.as_fd(), "/volume")?;
    let mut names = Vec::with_capacity(lowers.len());
    for (layer, lower) in lowers.iter().enumerate() {
        attach(lower.as_fd(), &lower_dir(layer))?;
        names.push(lower_dir(layer));
    }
    let options = format!("lowerdir={},upperdir=/volume/up,workdir=/volume/work,userxattr", names.join(":"));
    let options = std::ffi::CString::new(options).map_err(|error| ("the options".to_owned(), error.into()))?;
    mount("overlay", "/root", "overlay", MountFlags::NODEV, options.as_c_str()).attempted(|| "the overlay".to_owned())
}

/// The root is the sandbox's own. The old one lies over it and is the working directory: relative names are of the old
/// root, absolute ones of the new.
pub(super) struct NewRoot {
    /// The top directory of the small file system.
    shared: OwnedFd,
}

impl NewRoot {
    pub(super) fn enter() -> Attempt<Self> {
        let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shared = openat(CWD, "/shared", OFlags::RDONLY | directory, Mode::empty());
        let shared = shared.attempted(|| "opening the shared directory".to_owned())?;
        let old = openat(CWD, "/", OFlags::PATH | directory, Mode::empty());
        let old = old.attempted(|| "opening the old root".to_owned())?;
        chdir("/root").attempted(|| "entering the overlay".to_owned())?;
        pivot_root(".", ".").attempted(|| "pivot_root".to_owned())?;
        fchdir(&old).attempted(|| "entering the old root".to_owned())?;
        Ok(Self { shared })
    }

    /// Lays something of the small file system over a path in /proc or /sys, which are ours by then and hold no links.
    #[allow(clippy::unused_self)]
    fn cover(&self, path: &str, with: &str) -> Attempt<()> {
        mount_bind(format!("shared/{with}"), path).attempted(|| format!("covering {path}"))
    }

    pub(super) fn proc(&self, masks: &Masks) -> Attempt<()> {
        let inert =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = new_mount("proc", &[], inert)?;
        attach_making(proc.as_fd(), "/proc", 0o555)?;
        let read_only =
            MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        for path in &masks.proc_read_only {
            mount_bind(path.as_str(), path.as_str())
                .and_then(|()| mount_remount(path.as_str(), read_only, c""))
                .attempted(|| format!("making {path} read-only"))?;
        }
        masks.proc_files.iter().try_for_each(|path| self.cover(path, shared::NULL))?;
        masks.proc_dirs.iter().try_for_each(|path| self.cover(path, shared::EMPTY))?;
        let mut bound = masks.bound.iter().filter(|(_, path)| path.starts_with("/proc"));
        bound.try_for_each(|(name, path)| self.cover(path, name))
    }

    pub(super) fn sys(&self, masks: &Masks, names: &[String], cgroups: &[OwnedFd]) -> Attempt<()> {
        let inert = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let sys = new_mount("sysfs", &[], inert)?;
        attach_making(sys.as_fd(), "/sys", 0o555)?;
        masks.sys_dirs.iter().try_for_each(|path| self.cover(path, shared::EMPTY))?;
        let mut bound = masks.bound.iter().filter(|(_, path)| path.starts_with("/sys"));
        bound.try_for_each(|(name, path)| self.cover(path, name))?;
        if !matches!(names, [only] if only.is_empty()) {
            self.cover("/sys/fs/cgroup", shared::CGROUPS)?;
        }
        for (name, view) in names.iter().zip(cgroups) {
            let path = if name.is_empty() { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{name}") };
            attach(view.as_fd(), &path)?;
        }
        Ok(())
    }

    pub(super) fn dev(&self, shm_bytes: u64) -> Attempt<()> {
        // Not by path: what the image has at /dev may be a link.
        let copy = sys::detached_copy(self.shared.as_fd(), shared::DEV).attempted(|| "a copy of dev".to_owned())?;
        attach_making(copy.as_fd(), "/dev", 0o755)?;
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let terminals =
            [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", TTY_GROUP), ("max", MAX_TERMINALS)];
        attach(new_mount("devpts", &terminals, quiet)?.as_fd(), "/dev/pts")?;
        let closed = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let size = shm_bytes.to_string();
        attach(new_mount("tmpfs", &[("size", &size), ("mode", "1777")], closed)?.as_fd(), "/dev/shm")?;
        let queues = new_mount("mqueue", &[], closed | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        attach(queues.as_fd(), "/dev/mqueue")
    }

    /// Attaches a volume at its path, which is made where the image lacks it. Links in it lead nowhere but inside.
    #[allow(clippy::unused_self)]
    pub(super) fn volume(&self, mount: BorrowedFd<'_>, path: &str) -> Attempt<()> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path).attempted(|| format!("making {path}"))?;
        attach(mount, path)
    }

    /// Lets go of the old root and all that is mounted in it. What stays is the directory of the bound files: its mount
    /// has lost its parent by then, so `..` leads nowhere.
    pub(super) fn detach(self) -> Attempt<OwnedFd> {
        unmount(".", UnmountFlags::DETACH).attempted(|| "unmounting the old root".to_owned())?;
        chdir("/").attempted(|| "entering the new root".to_owned())?;
        Ok(self.shared)
    }
}
