//! Control groups of sandboxes: limits, freezing, killing, counting; on v1, v2 and the mix of both.
//!
//! [`Hierarchies`] says once what is mounted where. [`Cgroups`] owns `atoll-<instance>/` in each hierarchy and, below it,
//! one directory per sandbox. Neither knows what a sandbox is beyond its name. Nothing is kept in memory but paths, and
//! who goes by another name than his directory: the kernel is asked each time, so a restarted agent sees the same.
//!
//! How a process gets in: into v2 by `CLONE_INTO_CGROUP`, into v1 by writing `0` to `tasks` itself while it is still
//! single-threaded, which spares the machine-wide lock that moving somebody else takes.

mod freeze;
mod hierarchies;
mod kill;
mod limits;
mod usage;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};

pub use hierarchies::{Controller, Hierarchies, Hierarchy, Version};
pub use limits::Limits;

use crate::driver::Usage;

/// How long removing a cgroup may wait for its last process to be reaped.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(3);

/// The cgroups of one Atoll.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Below each hierarchy's mount point: `[parent/]atoll-<instance>`.
    base: PathBuf,
    /// The directories of those that go by another name: v2 has no rename, and to move a process is slow.
    renamed: RwLock<HashMap<String, String>>,
}

/// A directory of a hierarchy that the sandbox may look at, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Below `/sys/fs/cgroup`; empty: that directory itself.
    pub name: String,
    pub path: PathBuf,
}

impl Cgroups {
    /// Makes the instance's directory in every hierarchy that is of use.
    ///
    /// # Errors
    /// When a controller that limits need is missing, or a directory can't be made.
    pub fn open(hierarchies: &Hierarchies, parent: Option<&Path>, instance: &str) -> io::Result<Self> {
        let mut base = parent.map_or_else(PathBuf::new, |parent| parent.components().skip_while(is_root).collect());
        base.push(format!("atoll-{instance}"));
        let cgroups = Self { hierarchies: hierarchies.needed()?, base, renamed: RwLock::default() };
        for hierarchy in &cgroups.hierarchies {
            hierarchy.make_base(&cgroups.base)?;
        }
        Ok(cgroups)
    }

    /// What has the directory `directory` goes by the name `name` from now on, until it is removed. Whoever says so has
    /// to say it again to the next agent.
    pub fn rename(&self, directory: &str, name: &str) {
        let mut renamed = self.renamed.write().unwrap_or_else(PoisonError::into_inner);
        renamed.insert(name.to_owned(), directory.to_owned());
    }

    /// First half of making a sandbox's cgroups: its directory in the v2 tree, to be cloned into. `None` without v2.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn begin(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        let Some(v2) = self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2) else {
            return Ok(None);
        };
        let path = self.path(v2, name);
        make_dir(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|error| opening(&path, error.into()))?))
    }

    /// Second half: the other directories, and the limits in all. Answers with the `tasks` files of the v1 hierarchies,
    /// to which the child writes `0`.
    ///
    /// # Errors
    /// When a directory can't be made or a limit can't be set.
    pub fn complete(&self, name: &str, limits: &Limits) -> io::Result<Vec<OwnedFd>> {
        let mut tasks = Vec::with_capacity(self.hierarchies.len());
        for hierarchy in &self.hierarchies {
            let path = self.path(hierarchy, name);
            if hierarchy.version == Version::V1 {
                make_dir(&path)?;
            }
            limits.apply(hierarchy, &path)?;
            if hierarchy.version == Version::V1 {
                let file = path.join("tasks");
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(CWD, &file, flags, Mode::empty());
                tasks.push(opened.map_err(|error| opening(&file, error.into()))?);
            }
        }
        Ok(tasks)
    }

    /// What the sandbox sees of its own cgroups.
    #[must_use]
    pub fn views(&self, name: &str) -> Vec<View> {
        let only_v2 = self.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2);
        let mut views = Vec::new();
        for hierarchy in &self.hierarchies {
            let path = self.path(hierarchy, name);
            match hierarchy.version {
                Version::V2 if only_v2 => views.push(View { name: String::new(), path }),
                Version::V2 => views.push(View { name: "unified".to_owned(), path }),
                Version::V1 => views.extend(
                    hierarchy
                        .controllers
                        .iter()
                        .map(|controller| View { name: controller.as_str().to_owned(), path: path.clone() }),
                ),
            }
        }
        views
    }

    /// Stops every process of the sandbox; returns when the kernel says that all have stopped.
    ///
    /// # Errors
    /// When there is no such cgroup, or it does not freeze in time.
    pub fn freeze(&self, name: &str) -> io::Result<()> {
        let (hierarchy, path) = self.freezer(name)?;
        freeze::set(hierarchy.version, &path, true)
    }

    /// # Errors
    /// When there is no such cgroup, or it does not thaw in time.
    pub fn thaw(&self, name: &str) -> io::Result<()> {
        let (hierarchy, path) = self.freezer(name)?;
        freeze::set(hierarchy.version, &path, false)
    }

    /// Has the kernel give up what memory it can of the sandbox: to swap, and out of the page cache.
    ///
    /// # Errors
    /// When the kernel knows no way, or gave up before everything was gone.
    pub fn reclaim(&self, name: &str) -> io::Result<()> {
        let memory = self.hierarchies.iter().find(|hierarchy| hierarchy.has(Controller::Memory));
        let memory = memory.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let path = self.path(memory, name);
        match memory.version {
            Version::V2 => {
                let current = fs::read_to_string(path.join("memory.current"))?;
                // Swap is for what stands still; while it runs a sandbox gets none, and what lies there comes back as it is
                // touched.
                let swap = path.join("memory.swap.max");
                let swappable = write(&swap, "max");
                let reclaimed = match write(&path.join("memory.reclaim"), current.trim_end()) {
                    // It got less than it was asked for, which is as good as it gets.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    result => result,
                };
                if swappable.is_ok() {
                    write(&swap, "0")?;
                }
                reclaimed
            }
            Version::V1 => match write(&path.join("memory.force_empty"), "0") {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
                result => result,
            },
        }
    }

    /// Whether the sandbox is frozen now.
    #[must_use]
    pub fn is_frozen(&self, name: &str) -> bool {
        self.freezer(name).is_ok_and(|(hierarchy, path)| freeze::is_frozen(hierarchy.version, &path).unwrap_or(false))
    }

    /// Kills every process of the sandbox, frozen or not, and waits until they have ended. Fine when there is none.
    ///
    /// # Errors
    /// When processes are still there after several seconds.
    pub fn kill(&self, name: &str) -> io::Result<()> {
        let (hierarchy, path) = self.freezer(name)?;
        if path.exists() { kill::all(hierarchy.version, &path) } else { Ok(()) }
    }

    /// Whether the sandbox has a directory where it would be frozen and killed.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.freezer(name).is_ok_and(|(_, path)| path.exists())
    }

    /// Whether a process of the sandbox lives.
    #[must_use]
    pub fn is_populated(&self, name: &str) -> bool {
        self.freezer(name).is_ok_and(|(hierarchy, path)| !kill::is_empty(hierarchy.version, &path).unwrap_or(true))
    }

    /// The processes of the sandbox, as this process numbers them.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn processes(&self, name: &str) -> io::Result<Vec<i32>> {
        let (_, path) = self.freezer(name)?;
        Ok(kill::processes(&path)?.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect())
    }

    /// What the sandbox uses.
    ///
    /// # Errors
    /// When it has no cgroups.
    pub fn usage(&self, name: &str) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for hierarchy in &self.hierarchies {
            usage::add(hierarchy, &self.path(hierarchy, name), &mut usage)?;
        }
        Ok(usage)
    }

    /// Processor time of the sandbox, in microseconds: one file.
    ///
    /// # Errors
    /// When it has no cgroups.
    pub fn cpu_usec(&self, name: &str) -> io::Result<u64> {
        let counts = |hierarchy: &&Hierarchy| hierarchy.version == Version::V2 || hierarchy.has(Controller::Cpuacct);
        // As `usage` has it: v2 counts where it is mounted.
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
        let hierarchy = v2.or_else(|| self.hierarchies.iter().find(counts));
        let hierarchy = hierarchy.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        usage::cpu_usec(hierarchy, &self.path(hierarchy, name))
    }

    /// Removes the sandbox's directories, waiting for processes that are about to be gone. Fine when there are none.
    ///
    /// # Errors
    /// When a directory is still in use after a few seconds.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        let mut result = Ok(());
        for hierarchy in &self.hierarchies {
            let path = self.path(hierarchy, name);
            if let Err(error) = remove_tree(&path, deadline) {
                result = Err(io::Error::new(error.kind(), format!("removing {}: {error}", path.display())));
            }
        }
        if result.is_ok() {
            self.renamed.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        result
    }

    /// The names that have a directory in any hierarchy.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .hierarchies
            .iter()
            .filter_map(|hierarchy| fs::read_dir(hierarchy.mount.join(&self.base)).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let renamed = self.renamed.read().unwrap_or_else(PoisonError::into_inner);
        for (name, directory) in &*renamed {
            names.iter_mut().filter(|it| *it == directory).for_each(|it| name.clone_into(it));
        }
        drop(renamed);
        names.sort();
        names.dedup();
        names
    }

    /// Removes the instance's own directories where no sandbox is left in them.
    pub fn remove_base(&self) {
        for hierarchy in &self.hierarchies {
            let _in_use_or_gone = fs::remove_dir(hierarchy.mount.join(&self.base));
        }
    }

    fn path(&self, hierarchy: &Hierarchy, name: &str) -> PathBuf {
        let renamed = self.renamed.read().unwrap_or_else(PoisonError::into_inner);
        let base = hierarchy.mount.join(&self.base);
        match renamed.get(name) {
            Some(directory) => base.join(directory),
            // What had this name has another one.
            None if renamed.values().any(|directory| directory == name) => base.join(format!("{name}.gone")),
            None => base.join(name),
        }
    }

    /// The hierarchy that freezes and kills: v2 where there is one.
    fn freezer(&self, name: &str) -> io::Result<(&Hierarchy, PathBuf)> {
        let hierarchy = self
            .hierarchies
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2 || hierarchy.has(Controller::Freezer))
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no cgroup hierarchy can freeze"))?;
        Ok((hierarchy, self.path(hierarchy, name)))
    }
}

fn is_root(component: &std::path::Component<'_>) -> bool {
    !matches!(component, std::path::Component::Normal(_))
}

fn opening(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("opening {}: {error}", path.display()))
}

/// One `mkdir`; a directory that a crashed launch left is used again.
fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("making {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes a control file, naming it when that fails.
fn write(path: &Path, value: &str) -> io::Result<()> {
    // One write of an existing file: cgroupfs takes values in single writes and makes no files.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("writing {value} to {}: {error}", path.display())))
}

fn remove_tree(path: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {
                // A sandbox can't make cgroups of its own, but whoever administers the host may have.
                for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        let _busy_or_gone = remove_tree(&entry.path(), Instant::now());
                    }
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests;
