//! What of cgroups this machine has, read from `/proc/self/mountinfo`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{make_dir, write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The controllers that Atoll uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Cpu,
    /// v1 only; v2 counts without a controller.
    Cpuacct,
    Memory,
    Pids,
    /// v1 only; v2 freezes without a controller.
    Freezer,
}

impl Controller {
    const ALL: [Self; 5] = [Self::Cpu, Self::Cpuacct, Self::Memory, Self::Pids, Self::Freezer];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.as_str() == name)
    }
}

/// One mounted tree and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    pub mount: PathBuf,
    pub controllers: BTreeSet<Controller>,
}

impl Hierarchy {
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// Makes `base` below the mount point; on v2 also hands the controllers down to it and to its children.
    pub(super) fn make_base(&self, base: &Path) -> io::Result<()> {
        let mut path = self.mount.clone();
        self.delegate(&path)?;
        for component in base.components() {
            path.push(component);
            make_dir(&path)?;
            self.delegate(&path)?;
        }
        Ok(())
    }

    fn delegate(&self, path: &Path) -> io::Result<()> {
        if self.version == Version::V1 || self.controllers.is_empty() {
            return Ok(());
        }
        let file = path.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).unwrap_or_default();
        for controller in &self.controllers {
            if !enabled.split_whitespace().any(|name| name == controller.as_str()) {
                write(&file, &format!("+{}", controller.as_str()))?;
            }
        }
        Ok(())
    }
}

/// Every cgroup tree mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// # Errors
    /// When the mounts of this process can't be read.
    pub fn detect() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(&mounts, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()))
    }

    /// `controllers_of` reads `cgroup.controllers` of a v2 mount.
    fn parse(mountinfo: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let mut all: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut fields = left.split(' ').skip(3);
            let (Some(root), Some(mount)) = (fields.next(), fields.next()) else { continue };
            let mut kind = right.split(' ');
            let (kind, options) = (kind.next(), kind.nth(1).unwrap_or_default());
            let (version, names) = match kind {
                Some("cgroup2") => (Version::V2, controllers_of(Path::new(mount))),
                Some("cgroup") => (Version::V1, options.replace(',', " ")),
                _ => continue,
            };
            // A bind mount of some subtree is not the hierarchy; nor is one that is not writable.
            let read_only = left.split(' ').nth(5).is_some_and(|flags| flags.split(',').any(|flag| flag == "ro"));
            if root != "/" || read_only {
                continue;
            }
            let controllers: BTreeSet<_> = names.split_whitespace().filter_map(Controller::from_name).collect();
            let mounted_before = all.iter().any(|known| {
                known.version == version && known.controllers == controllers && version == Version::V2
                    || !controllers.is_disjoint(&known.controllers)
            });
            if !mounted_before && (version == Version::V2 || !controllers.is_empty()) {
                all.push(Hierarchy { version, mount: PathBuf::from(mount), controllers });
            }
        }
        Self { all }
    }

    /// The v2 tree, if one is mounted.
    #[must_use]
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    #[must_use]
    pub fn of(&self, controller: Controller) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.has(controller))
    }

    /// `v1`, `v2` or `mixed`, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let v1 = self.all.iter().any(|hierarchy| hierarchy.version == Version::V1);
        match (v1, self.v2().is_some()) {
            (true, true) => "mixed",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }

    /// As if there were no v2 tree.
    #[cfg(test)]
    pub(crate) fn without_v2(mut self) -> Self {
        self.all.retain(|hierarchy| hierarchy.version == Version::V1);
        self
    }

    /// The hierarchies to make directories in: those that limit, count, freeze and kill.
    pub(super) fn needed(&self) -> io::Result<Vec<Hierarchy>> {
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            if self.of(controller).is_none() {
                let text = format!("the cgroup controller `{}` is not mounted", controller.as_str());
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        }
        let v2 = self.v2().is_some();
        if !v2 && self.of(Controller::Freezer).is_none() {
            let text = "neither a v2 cgroup tree nor the v1 controller `freezer` is mounted";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut needed = self.all.clone();
        for hierarchy in &mut needed {
            if v2 {
                // The v2 tree freezes, and counts processor time.
                hierarchy.controllers.remove(&Controller::Freezer);
                if !hierarchy.has(Controller::Cpu) {
                    hierarchy.controllers.remove(&Controller::Cpuacct);
                }
            }
        }
        needed.retain(|hierarchy| hierarchy.version == Version::V2 || !hierarchy.controllers.is_empty());
        Ok(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime shared:5 - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
90 31 0:36 /some/where /mnt/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_mix_limits_on_v1_and_freezes_on_v2() {
        let found = Hierarchies::parse(MIXED, |_| "hugetlb".to_owned());
        assert_eq!(found.kind(), "mixed");
        let needed = found.needed().unwrap();
        let mounts: Vec<_> = needed.iter().map(|hierarchy| hierarchy.mount.display().to_string()).collect();
        assert_eq!(
            mounts,
            ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"]
        );
    }

    #[test]
    fn pure_v2_needs_one_tree() {
        let line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(line, |_| "cpuset cpu io memory pids".to_owned());
        assert_eq!(found.kind(), "v2");
        let needed = found.needed().unwrap();
        assert_eq!(needed.len(), 1);
        assert!([Controller::Cpu, Controller::Memory, Controller::Pids].iter().all(|one| needed[0].has(*one)));
    }

    #[test]
    fn v1_alone_uses_its_freezer() {
        let without_v2: String =
            MIXED.lines().filter(|line| !line.contains("cgroup2")).map(|l| format!("{l}\n")).collect();
        let found = Hierarchies::parse(&without_v2, |_| String::new());
        assert_eq!(found.kind(), "v1");
        assert!(found.needed().unwrap().iter().any(|hierarchy| hierarchy.has(Controller::Freezer)));
    }

    #[test]
    fn a_missing_controller_is_named() {
        let without: String = MIXED.lines().filter(|line| !line.contains("pids")).map(|l| format!("{l}\n")).collect();
        let error = Hierarchies::parse(&without, |_| String::new()).needed().unwrap_err();
        assert!(error.to_string().contains("`pids`"), "{error}");
    }
}
