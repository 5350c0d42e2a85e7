//! What an Atoll may leave on a machine: found by its instance id and data directory, and removed after a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_model::SandboxId;

/// How to recognise what belongs to one data directory.
#[derive(Debug, Clone)]
pub struct Mark {
    data_dir: PathBuf,
    instance: Option<String>,
    blocks: Vec<u8>,
}

const CLAIMS: &str = "/run/atoll/blocks";

impl Mark {
    /// Reads the instance id and its claims, while they are still there.
    pub fn of(data_dir: &Path) -> Self {
        let instance = ["instance", "host/instance", "agent/instance"]
            .iter()
            .find_map(|name| std::fs::read_to_string(data_dir.join(name)).ok())
            .map(|text| text.trim().to_owned())
            .filter(|id| !id.is_empty());
        let mut mark = Self { data_dir: data_dir.to_owned(), instance, blocks: Vec::new() };
        mark.blocks = mark.claims().iter().filter_map(|path| block_of(path)).collect();
        mark
    }

    fn claims(&self) -> Vec<PathBuf> {
        let Some(instance) = &self.instance else { return Vec::new() };
        entries(Path::new(CLAIMS))
            .into_iter()
            .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains(instance.as_str())))
            .collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let Some(instance) = &self.instance else { return Vec::new() };
        let names = [format!("atoll-{instance}"), format!("atoll-{instance}-vm")];
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(entries(Path::new("/sys/fs/cgroup")));
        let all = roots.iter().flat_map(|root| names.iter().map(|name| root.join(name)));
        all.filter(|path| path.is_dir()).collect()
    }

    /// Sandboxes that still have a cgroup: those of template builds too, which no list of control shows.
    pub fn sandboxes(&self) -> Vec<PathBuf> {
        let children = self.cgroups().into_iter().flat_map(|path| entries(&path));
        children.filter(|path| path.is_dir()).collect()
    }

    fn links(&self) -> Vec<String> {
        let ours = |name: &String| {
            self.blocks.iter().any(|block| name.len() == 7 && name.starts_with(&format!("atl{block:02x}")))
        };
        let links = entries(Path::new("/sys/class/net"));
        links.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).filter(ours).collect()
    }

    fn addresses(&self) -> Vec<String> {
        let shown = Command::new("ip").args(["-o", "-4", "address", "show", "dev", "lo"]).output();
        let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let gateways = self.blocks.iter().map(|block| format!("198.18.{block}.0"));
        gateways.filter(|address| shown.contains(&format!(" {address}/"))).collect()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        // The directory itself may be a disk that somebody gave it.
        points.filter(|point| point.starts_with(&self.data_dir) && *point != self.data_dir).collect()
    }

    fn loop_devices(&self) -> Vec<PathBuf> {
        let ours = |path: &PathBuf| {
            let backing = std::fs::read_to_string(path.join("loop/backing_file")).unwrap_or_default();
            Path::new(backing.trim()).starts_with(&self.data_dir)
        };
        entries(Path::new("/sys/block")).into_iter().filter(ours).collect()
    }

    fn tables(&self) -> Vec<String> {
        let Some(instance) = &self.instance else { return Vec::new() };
        let listed = Command::new("nft").args(["list", "tables"]).output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        listed.lines().filter(|line| line.contains(instance.as_str())).map(str::to_owned).collect()
    }

    /// Processes that were started for this data directory: `atoll` itself, zygotes, init processes of sandboxes.
    fn processes(&self) -> Vec<i32> {
        let directory = self.data_dir.to_string_lossy().into_owned();
        let cgroup = self.instance.as_ref().map(|id| format!("/atoll-{id}"));
        let ours = |pid: &i32| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            String::from_utf8_lossy(&cmdline).contains(&directory)
                || cgroup.as_ref().is_some_and(|name| cgroups.contains(name.as_str()))
        };
        let pids = entries(Path::new("/proc")).into_iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id().cast_signed())
            .filter(ours)
            .filter(|pid| !is_buried(*pid))
            .collect()
    }

    /// Processes of one sandbox.
    pub fn processes_of(&self, sandbox: &SandboxId) -> Vec<i32> {
        let ours = |pid: &i32| {
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.lines().any(|line| line.contains("/atoll-") && line.contains(sandbox.tail()))
        };
        self.processes().into_iter().filter(ours).collect()
    }

    /// Everything of it that is still on the machine, for people.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.processes().iter().map(|pid| format!("process {pid}")));
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(self.links().iter().map(|name| format!("link {name}")));
        left.extend(self.addresses().iter().map(|address| format!("address {address} on lo")));
        left.extend(self.mounts().iter().map(|path| format!("mount {}", path.display())));
        left.extend(self.loop_devices().iter().map(|path| format!("loop device {}", path.display())));
        left.extend(self.tables().iter().map(|table| format!("nft {table}")));
        left.extend(self.claims().iter().map(|path| format!("claim {}", path.display())));
        left
    }

    /// Removes it all: after a test that failed, or that ended with sandboxes on purpose.
    pub fn remove(&self) {
        for _ in 0..50 {
            let processes = self.processes();
            for pid in &processes {
                // SAFETY: kill has no memory effects; the process is of the Atoll under test.
                unsafe { libc::kill(*pid, libc::SIGKILL) };
            }
            if processes.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // A process that the machine's init has still to bury holds its cgroup.
        for _ in 0..500 {
            let cgroups = self.cgroups();
            if cgroups.is_empty() {
                break;
            }
            for cgroup in cgroups {
                for child in entries(&cgroup) {
                    let _ = std::fs::remove_dir(child);
                }
                let _ = std::fs::remove_dir(cgroup);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for name in self.links() {
            run("ip", &["link", "delete", &name]);
        }
        for table in self.tables() {
            run("sh", &["-c", &format!("nft delete {table}")]);
        }
        for address in self.addresses() {
            run("ip", &["address", "delete", &format!("{address}/32"), "dev", "lo"]);
        }
        let mut mounts = self.mounts();
        mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for mount in mounts {
            run("umount", &["-l", &mount.to_string_lossy()]);
        }
        for claim in self.claims() {
            let _ = std::fs::remove_file(claim);
        }
    }
}

fn block_of(claim: &Path) -> Option<u8> {
    let name = claim.file_stem()?.to_str()?;
    u8::from_str_radix(name, 16).ok()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|read| read.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn run(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).output();
}

/// Whether it has ended, and only the machine's own init has still to take note of it.
fn is_buried(pid: i32) -> bool {
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = |stat: &str| stat.rsplit_once(')').map(|(_, rest)| rest.trim().to_owned()).unwrap_or_default();
    let own = after_name(&stat(&pid.to_string()));
    let mut fields = own.split(' ');
    let (state, parent) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    state == "Z" && !stat(parent).contains("(atoll")
}
