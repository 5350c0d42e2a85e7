//! On the machine's own cgroups; those of v2 alone are tried in a machine that has nothing else
//! (`driver/vm/tests/v2_alone.rs`).

use super::*;
use std::process::{Child, Command};

struct Scratch {
    cgroups: Cgroups,
    children: Vec<Child>,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let instance = format!("test{name}{}", std::process::id());
        let cgroups = Cgroups::open(&Hierarchies::detect().unwrap(), None, &instance).unwrap();
        Self { cgroups, children: Vec::new() }
    }

    fn make(&self, name: &str) {
        self.cgroups.begin(name).unwrap();
        let limits = Limits { vcpus: 1, memory_bytes: 64 << 20, pids_max: 16 };
        self.cgroups.complete(name, &limits).unwrap();
    }

    /// Starts a program and moves it in.
    fn run(&mut self, name: &str, program: &str, argument: &str) -> u32 {
        let child = Command::new(program).arg(argument).spawn().unwrap();
        let pid = child.id();
        for hierarchy in &self.cgroups.hierarchies {
            write(&self.cgroups.path(hierarchy, name).join("cgroup.procs"), &pid.to_string()).unwrap();
        }
        self.children.push(child);
        pid
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        for name in self.cgroups.names() {
            let _thawed = self.cgroups.thaw(&name);
            let _removed = self.cgroups.remove(&name);
        }
        self.cgroups.remove_base();
    }
}

#[test]
fn a_frozen_cgroup_is_killed_and_leaves_nothing() {
    let mut scratch = Scratch::new("kill");
    scratch.make("a");
    scratch.run("a", "sleep", "1000");
    scratch.cgroups.freeze("a").unwrap();
    assert!(scratch.cgroups.is_frozen("a"));
    scratch.cgroups.thaw("a").unwrap();
    assert!(!scratch.cgroups.is_frozen("a"));
    scratch.cgroups.freeze("a").unwrap();
    scratch.cgroups.kill("a").unwrap();
    assert!(scratch.children[0].wait().unwrap().code().is_none(), "ended by a signal");
    scratch.cgroups.remove("a").unwrap();
    assert!(scratch.cgroups.names().is_empty());
    scratch.cgroups.kill("a").unwrap();
    scratch.cgroups.remove("a").unwrap();
}

#[test]
fn usage_counts_processes_and_memory() {
    let mut scratch = Scratch::new("usage");
    scratch.make("a");
    assert_eq!(scratch.cgroups.usage("a").unwrap().processes, 0);
    scratch.run("a", "sleep", "1000");
    assert_eq!(scratch.cgroups.usage("a").unwrap().processes, 1);
    assert!(scratch.cgroups.usage("b").is_err());
}

#[test]
fn names_lists_what_was_made_until_it_is_removed() {
    let scratch = Scratch::new("names");
    scratch.make("a");
    scratch.make("b");
    assert_eq!(scratch.cgroups.names(), ["a", "b"]);
    scratch.cgroups.remove("a").unwrap();
    assert_eq!(scratch.cgroups.names(), ["b"]);
}

#[test]
fn one_that_goes_by_another_name_is_found_by_it_until_it_is_removed() {
    let mut scratch = Scratch::new("rename");
    scratch.make("a");
    scratch.make("b");
    let pid = scratch.run("a", "sleep", "1000");
    scratch.cgroups.rename("a", "c");
    assert!(scratch.cgroups.has("c") && scratch.cgroups.is_populated("c"));
    assert_eq!(scratch.cgroups.names(), ["b", "c"]);
    // Whoever still means it by its former name does it no harm.
    assert!(!scratch.cgroups.has("a"));
    scratch.cgroups.kill("a").unwrap();
    scratch.cgroups.remove("a").unwrap();
    assert_eq!(scratch.cgroups.processes("c").unwrap(), [i32::try_from(pid).unwrap()]);
    scratch.cgroups.kill("c").unwrap();
    scratch.cgroups.remove("c").unwrap();
    assert!(!scratch.cgroups.has("a") && !scratch.cgroups.has("c"));
    // Its name is free again.
    scratch.make("c");
    assert_eq!(scratch.cgroups.names(), ["b", "c"]);
}

/// What the sandbox's directory has in the hierarchy with this controller, under the name of its version.
fn told(scratch: &Scratch, controller: Controller, v1: &str, v2: &str) -> Vec<String> {
    let hierarchy = scratch.cgroups.hierarchies.iter().find(|it| it.has(controller)).unwrap();
    let names = if hierarchy.version == Version::V2 { v2 } else { v1 };
    let path = scratch.cgroups.path(hierarchy, "a");
    names.split(' ').map(|name| fs::read_to_string(path.join(name)).unwrap().trim_end().to_owned()).collect()
}

#[test]
fn the_kernel_has_the_limits_that_were_asked_for() {
    let scratch = Scratch::new("limits");
    scratch.make("a");
    let cpu = told(&scratch, Controller::Cpu, "cpu.cfs_quota_us cpu.cfs_period_us", "cpu.max").join(" ");
    assert_eq!(cpu, "100000 100000");
    let memory = told(&scratch, Controller::Memory, "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, [(64 << 20).to_string()]);
    let swap = told(&scratch, Controller::Memory, "memory.memsw.limit_in_bytes", "memory.swap.max");
    let none = if scratch.cgroups.hierarchies.iter().any(|it| it.version == Version::V1) { 64 << 20 } else { 0 };
    assert_eq!(swap, [none.to_string()]);
    assert_eq!(told(&scratch, Controller::Pids, "pids.max", "pids.max"), ["16"]);
    // Others may be set, also while it is there.
    scratch.cgroups.complete("a", &Limits { vcpus: 4, memory_bytes: 32 << 20, pids_max: 9 }).unwrap();
    let cpu = told(&scratch, Controller::Cpu, "cpu.cfs_quota_us cpu.cfs_period_us", "cpu.max").join(" ");
    assert_eq!(cpu, "400000 100000");
    assert_eq!(told(&scratch, Controller::Pids, "pids.max", "pids.max"), ["9"]);
}

#[test]
fn below_a_parent_and_beside_an_earlier_agent_it_is_the_same() {
    let slice = format!("/atoll-test{}.slice/inner", std::process::id());
    let parent = Path::new(&slice);
    let open = || Cgroups::open(&Hierarchies::detect().unwrap(), Some(parent), "testparent").unwrap();
    let mut scratch = Scratch { cgroups: open(), children: Vec::new() };
    scratch.make("a");
    scratch.run("a", "sleep", "1000");
    let again = open();
    assert_eq!(again.names(), ["a"]);
    assert!(again.is_populated("a") && again.usage("a").unwrap().processes == 1);
    again.kill("a").unwrap();
    again.remove("a").unwrap();
    again.remove_base();
    for hierarchy in &again.hierarchies {
        for parent in parent.ancestors().filter_map(|it| it.strip_prefix("/").ok()).filter(|it| it.parent().is_some()) {
            fs::remove_dir(hierarchy.mount.join(parent)).unwrap();
        }
    }
}

#[test]
fn memory_that_nobody_needs_is_given_back_and_the_limit_on_swap_is_what_it_was() {
    let mut scratch = Scratch::new("reclaim");
    scratch.make("a");
    scratch.run("a", "sleep", "1000");
    scratch.cgroups.freeze("a").unwrap();
    let swap = || told(&scratch, Controller::Memory, "memory.memsw.limit_in_bytes", "memory.swap.max");
    let before = swap();
    scratch.cgroups.reclaim("a").unwrap();
    assert_eq!(swap(), before);
    assert!(scratch.cgroups.is_frozen("a"));
}

#[test]
fn processor_time_is_counted_and_is_the_same_both_ways() {
    let mut scratch = Scratch::new("time");
    scratch.make("a");
    assert_eq!(scratch.cgroups.cpu_usec("a").unwrap(), 0);
    let mut command = Command::new("sh");
    command.args(["-c", "read -r go; while :; do :; done"]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    for hierarchy in &scratch.cgroups.hierarchies {
        write(&scratch.cgroups.path(hierarchy, "a").join("cgroup.procs"), &child.id().to_string()).unwrap();
    }
    io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    scratch.children.push(child);
    while scratch.cgroups.cpu_usec("a").unwrap() < 20_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // What stands still runs no more.
    scratch.cgroups.freeze("a").unwrap();
    let stood = scratch.cgroups.cpu_usec("a").unwrap();
    assert_eq!(scratch.cgroups.usage("a").unwrap().cpu_usec, stood);
    assert_eq!(scratch.cgroups.cpu_usec("a").unwrap(), stood);
}
