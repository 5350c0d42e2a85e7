//! The guest as a whole: what all requests share.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cgroup::{Cgroup, CpuUse};
use crate::config::{Config, Settings};
use crate::filesystem::watch::Hub;
use crate::logs::Logs;
use crate::metrics::Meter;
use crate::proc_files::ProcFiles;
use crate::process::table::Table;
use crate::reaper::Reaper;

pub struct Guest {
    config: Mutex<Arc<Config>>,
    settings: Mutex<Settings>,
    pub reaper: Arc<Reaper>,
    pub processes: Table,
    pub watches: Arc<Hub>,
    pub logs: Logs,
    pub cgroup: Cgroup,
    pub meter: Meter,
    pub proc_files: ProcFiles,
}

impl Guest {
    pub fn new(config: Config, proc_folder: Option<OwnedFd>, development: bool, virtual_machine: bool) -> Arc<Self> {
        let cgroup = if virtual_machine { Cgroup::of_machine() } else { Cgroup::default() };
        // A sandbox's group is as young as this process: there is nothing to read yet, and a start has no time for it.
        let used = if development || virtual_machine { cgroup.cpu().unwrap_or_default() } else { CpuUse::default() };
        let cpus = config.cpu_count();
        Arc::new(Self {
            settings: Mutex::new(Settings::from_config(&config)),
            reaper: Arc::default(),
            processes: Table::default(),
            watches: Arc::default(),
            logs: Logs::new(development),
            meter: Meter::new(cpus, config.memory_bytes, used),
            proc_files: ProcFiles::new(proc_folder, cpus, config.memory_bytes, used),
            cgroup,
            config: Mutex::new(Arc::new(config)),
        })
    }

    /// The settings as they are now. Held for a moment only, never over an await.
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        crate::lock(&self.settings)
    }

    /// What the host has said of this sandbox.
    pub fn config(&self) -> Arc<Config> {
        crate::lock(&self.config).clone()
    }

    /// This is another sandbox from now on: a copy of the one that it was.
    pub fn become_another(&self, config: Config) {
        *self.settings() = Settings::from_config(&config);
        *crate::lock(&self.config) = Arc::new(config);
    }

    /// What went on here so far was none of this sandbox's.
    pub fn forget(&self) {
        self.logs.clear();
        self.processes.forget_ended();
        self.logs.info(format!("guest of sandbox {} is ready", self.config().sandbox_id));
    }

    /// The user that a request acts as when it names none.
    pub fn default_user(&self) -> String {
        let settings = self.settings();
        if settings.default_user.is_empty() { "root".to_owned() } else { settings.default_user.clone() }
    }
}
