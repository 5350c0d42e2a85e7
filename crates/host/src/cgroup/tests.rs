//! On the machine's own cgroups.

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
