//! The file systems of a sandbox, made by the child in its own mount namespace.
//!
//! Every name is looked up only after the pivot, inside the new root, so that whatever symbolic links an image holds
//! lead nowhere else. Sources come from the old root through a descriptor, until that is detached.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::child::{Attempt, Attempted};
use super::sys;
use super::wire::Plan;
use crate::driver::dev::{self, BOUND_FILES};

/// Layers below the writable one; the kernel's own bound is far higher.
pub(crate) const MAX_LOWERS: usize = 16;

/// Directories of the zygote's root, besides those of [`lower_dir`].
pub(super) const ROOT_DIRS: &[&str] = &["proc", "sys", "shared", "volume", "root"];

/// Terminals of one sandbox: the kernel has 4,096 for all.
const MAX_TERMINALS: &str = "128";
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
            bound: BOUND_FILES.iter().copied().filter(|(_, path)| fs::metadata(path).is_ok()).collect(),
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

/// The root is the sandbox's own; the old one lies over it, reachable through a descriptor only.
pub(super) struct NewRoot {
    old: OwnedFd,
}

impl NewRoot {
    pub(super) fn enter() -> Attempt<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = openat(CWD, "/", flags, Mode::empty()).attempted(|| "opening the old root".to_owned())?;
        chdir("/root").attempted(|| "entering the overlay".to_owned())?;
        pivot_root(".", ".").attempted(|| "pivot_root".to_owned())?;
        Ok(Self { old })
    }

    /// A copy of something below /shared in the old root.
    fn shared(&self, name: &str, attributes: MountAttrFlags) -> Attempt<OwnedFd> {
        let what = || format!("a copy of {name}");
        let copy = sys::detached_copy(self.old.as_fd(), format!("shared/{name}")).attempted(what)?;
        if !attributes.is_empty() {
            sys::mount_setattr(copy.as_fd(), attributes, None).attempted(what)?;
        }
        Ok(copy)
    }

    fn cover(&self, paths: &[String], with: &str) -> Attempt<()> {
        for path in paths {
            attach(self.shared(with, MountAttrFlags::MOUNT_ATTR_RDONLY)?.as_fd(), path)?;
        }
        Ok(())
    }

    pub(super) fn proc(&self, masks: &Masks) -> Attempt<()> {
        let inert =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = new_mount("proc", &[], inert)?;
        attach_making(proc.as_fd(), "/proc", 0o555)?;
        for path in &masks.proc_read_only {
            let what = || format!("making {path} read-only");
            let copy = sys::detached_copy(CWD, path.as_str()).attempted(what)?;
            sys::mount_setattr(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, None).attempted(what)?;
            attach(copy.as_fd(), path)?;
        }
        self.cover(&masks.proc_files, dev::NULL)?;
        self.cover(&masks.proc_dirs, dev::EMPTY)?;
        for (name, path) in masks.bound.iter().filter(|(_, path)| path.starts_with("/proc")) {
            attach(self.shared(&dev::state_file(name), inert)?.as_fd(), path)?;
        }
        Ok(())
    }

    pub(super) fn sys(&self, masks: &Masks, names: &[String], cgroups: &[OwnedFd]) -> Attempt<()> {
        let inert = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let sys = new_mount("sysfs", &[], inert)?;
        attach_making(sys.as_fd(), "/sys", 0o555)?;
        self.cover(&masks.sys_dirs, dev::EMPTY)?;
        for (name, path) in masks.bound.iter().filter(|(_, path)| path.starts_with("/sys")) {
            attach(self.shared(&dev::state_file(name), inert)?.as_fd(), path)?;
        }
        if !matches!(names, [only] if only.is_empty()) {
            attach(self.shared(dev::CGROUPS, inert)?.as_fd(), "/sys/fs/cgroup")?;
        }
        for (name, view) in names.iter().zip(cgroups) {
            let path = if name.is_empty() { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{name}") };
            attach(view.as_fd(), &path)?;
        }
        Ok(())
    }

    pub(super) fn dev(&self, shm_bytes: u64) -> Attempt<()> {
        attach_making(self.shared(dev::DEV, MountAttrFlags::MOUNT_ATTR_NOSUID)?.as_fd(), "/dev", 0o755)?;
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

    /// Lets go of the old root and all that is mounted in it. What stays is the directory of the bound files, as a
    /// mount of its own: it has no parent, so `..` leads nowhere.
    pub(super) fn detach(self) -> Attempt<OwnedFd> {
        let state = self.shared(dev::STATE, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = openat(&state, ".", flags, Mode::empty()).attempted(|| "opening the state".to_owned())?;
        unmount(".", UnmountFlags::DETACH).attempted(|| "unmounting the old root".to_owned())?;
        chdir("/").attempted(|| "entering the new root".to_owned())?;
        Ok(state)
    }
}

/// Host name and resolver, written as plain files of the sandbox's own layer.
pub(super) fn etc(plan: &Plan) -> Attempt<()> {
    let host = &plan.hostname;
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{host}\n", plan.address);
    replace("/etc/hostname", &format!("{host}\n"))?;
    replace("/etc/hosts", &hosts)?;
    replace("/etc/resolv.conf", &format!("nameserver {}\n", plan.nameserver))
}

/// Writes a file in place of whatever the image has there.
fn replace(path: &str, text: &str) -> Attempt<()> {
    let open = || {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).custom_flags(flags).open(path)
    };
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all("/etc").attempted(|| "making /etc".to_owned())?;
            open()
        }
        // A symbolic link (resolv.conf often is one), or a pipe without a reader.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            fs::remove_file(path).attempted(|| format!("removing {path}"))?;
            open()
        }
        result => result,
    };
    let written = opened.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.attempted(|| format!("writing {path}"))
}
