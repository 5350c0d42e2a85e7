//! The guest as a whole: what all requests share.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cgroup::Cgroup;
use crate::config::{Config, Settings};
use crate::filesystem::watch::Hub;
use crate::logs::Logs;
use crate::metrics::Meter;
use crate::proc_files::ProcFiles;
use crate::process::table::Table;
use crate::reaper::Reaper;

pub struct Guest {
    pub config: Config,
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
    pub fn new(config: Config, proc_folder: Option<OwnedFd>, echo_logs: bool, virtual_machine: bool) -> Arc<Self> {
        let cgroup = if virtual_machine { Cgroup::of_machine() } else { Cgroup::find() };
        let cpus = config.cpu_count();
        Arc::new(Self {
            settings: Mutex::new(Settings::from_config(&config)),
            reaper: Arc::default(),
            processes: Table::default(),
            watches: Arc::default(),
            logs: Logs::new(echo_logs),
            meter: Meter::new(cpus, config.memory_bytes, &cgroup),
            proc_files: ProcFiles::new(proc_folder, cpus, config.memory_bytes, &cgroup),
            cgroup,
            config,
        })
    }

    /// The settings as they are now. Held for a moment only, never over an await.
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        crate::lock(&self.settings)
    }

    /// The user that a request acts as when it names none.
    pub fn default_user(&self) -> String {
        let settings = self.settings();
        if settings.default_user.is_empty() { "root".to_owned() } else { settings.default_user.clone() }
    }
}
