//! What the agent knows of each sandbox, on disk: `<data>/sandboxes/<id>/record.json`, and its secrets beside it.
//!
//! A record is written before anything of its sandbox exists and removed when nothing of it is left, so whatever a crash
//! leaves behind can be found. Records are replaced atomically and synced behind the answer ([`super::durable`]): they
//! must survive the death of the agent, for which the page cache is enough, and a sync would cost each create more than
//! all its other steps. A record that a power cut has torn all the same is reported as such, never guessed.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use atoll_model::{LayerId, SandboxId};
use serde::{Deserialize, Serialize};

use super::generation::Seen;
use super::spec::{Secrets, Spec};
use crate::agent::credentials::{Durability, replace};
use crate::driver::{InitProcess, Kind};
use crate::slots::Slot;

/// Where a sandbox is between nothing and nothing.
///
/// ```text
/// Creating --launched--> Live --destroy--> Destroying --all is gone--> (no record)
///    +-----failed, or the agent died-----------^
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Creating,
    Live,
    Destroying,
}

/// What a live sandbox does.
///
/// ```text
/// Starting -> Running <-> Paused      any of them -> Exited (its processes are gone; its disk may remain)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    Running,
    Paused,
    Exited,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: SandboxId,
    /// The newest order.
    pub seen: Seen,
    pub phase: Phase,
    pub state: State,
    /// Why it is in this state: `user`, `ttl`, `host_disconnected`, `out_of_memory`, `exited`, `host_rebooted` ...
    pub reason: String,
    pub changed_at_ms: i64,
    #[serde(default)]
    pub exit_code: i32,
    pub spec: Spec,
    /// Until nothing lives in it any more.
    pub slot: Option<Slot>,
    /// The first process; none when there is none, as for one that was paused when the machine rebooted.
    pub init: Option<InitProcess>,
    /// It is paused, and its memory lies on the disk.
    #[serde(default)]
    pub stored: bool,
    /// Its volume began as a clone of its topmost layer, which is therefore not below it.
    #[serde(default)]
    pub cloned: bool,
    /// Of the policy in `spec`, as control counts them.
    #[serde(default)]
    pub policy_generation: u64,
    /// The policy was read by an agent that knows of bandwidths. Older ones have passed over them.
    #[serde(default)]
    pub knows_bandwidth: bool,
}

impl Record {
    /// The layers below the sandbox's volume, topmost first: what a layer made of it stands on.
    #[must_use]
    pub fn standing(&self) -> Vec<LayerId> {
        let layers = self.spec.layers.iter();
        match self.spec.kind() {
            // What has no image is a machine's disk, and its own disk began as a copy of that one.
            Kind::Vm => layers.filter(|layer| !layer.digest.is_empty()).map(|layer| layer.id.clone()).collect(),
            Kind::Container => layers.skip(usize::from(self.cloned)).map(|layer| layer.id.clone()).collect(),
        }
    }
}

/// A directory in which a record was, but can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    pub id: SandboxId,
    pub problem: String,
}

/// All records of a data directory.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
}

const RECORD: &str = "record.json";
const SECRETS: &str = "secrets.json";

impl Records {
    /// # Errors
    /// When the directory can't be made.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let directory = data_dir.join("sandboxes");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// The sandbox's own directory; its socket lives there too.
    #[must_use]
    pub fn directory_of(&self, id: &SandboxId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// The first write of a new sandbox: its directory, its secrets, then its record.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&self, record: &Record, secrets: &Secrets) -> io::Result<()> {
        let directory = self.directory_of(&record.id);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        replace(&directory.join(SECRETS), &serde_json::to_vec(secrets)?, Durability::Process)?;
        self.write(record)
    }

    /// # Errors
    /// When the disk refuses; the former record still stands then.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        replace(&self.directory_of(&record.id).join(RECORD), &bytes, Durability::Process)
    }

    /// Has the disk take what was written of a sandbox's record and secrets. Success when there is none any more.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_out(&self, id: &SandboxId) -> io::Result<()> {
        let directory = self.directory_of(id);
        for path in [directory.join(SECRETS), directory.join(RECORD), directory, self.directory.clone()] {
            match fs::File::open(&path).and_then(|file| file.sync_all()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }

    /// # Errors
    /// When they are not there or damaged.
    pub fn secrets(&self, id: &SandboxId) -> io::Result<Secrets> {
        Ok(serde_json::from_slice(&fs::read(self.directory_of(id).join(SECRETS))?)?)
    }

    /// The last act of a sandbox. Success when there is none. The record itself goes last: a crash in between leaves one
    /// that says what was going on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, id: &SandboxId) -> io::Result<()> {
        let directory = self.directory_of(id);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name() == RECORD {
                continue;
            }
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        match fs::remove_file(directory.join(RECORD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_dir(&directory)
    }

    /// One record; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read or makes no sense.
    pub fn load_one(&self, id: &SandboxId) -> Result<Option<Record>, String> {
        let bytes = match fs::read(self.directory_of(id).join(RECORD)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.id == *id => Ok(Some(record)),
            Ok(record) => Err(format!("it is the record of {}", record.id)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Everything that is there.
    ///
    /// # Errors
    /// When the directory can't be listed; a single damaged record is no error.
    pub fn load(&self) -> anyhow::Result<(Vec<Record>, Vec<Torn>)> {
        let (mut records, mut torn) = (Vec::new(), Vec::new());
        let entries = fs::read_dir(&self.directory).with_context(|| format!("listing {}", self.directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", self.directory.display()))?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<SandboxId>().ok()) else {
                tracing::warn!(name = ?name, "something that is no sandbox lies among the records: left alone");
                continue;
            };
            match self.load_one(&id) {
                Ok(Some(record)) => records.push(record),
                // The first thing made and the last thing removed: without it, nothing else of the sandbox is there.
                Ok(None) => self.remove(&id).with_context(|| format!("removing the empty directory of {id}"))?,
                Err(problem) => torn.push(Torn { id, problem }),
            }
        }
        Ok((records, torn))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sandboxes::spec;

    pub(crate) fn record(id: &SandboxId) -> Record {
        let (spec, _) = spec::parse(id, spec::tests::wish(), &spec::tests::offered()).unwrap();
        Record {
            id: id.clone(),
            seen: Seen::create(1, "x".to_owned()),
            phase: Phase::Creating,
            state: State::Starting,
            reason: String::new(),
            changed_at_ms: 1,
            exit_code: 0,
            spec,
            slot: None,
            init: None,
            stored: false,
            cloned: false,
            policy_generation: 0,
            knows_bandwidth: true,
        }
    }

    #[test]
    fn an_older_agents_record_knows_of_no_bandwidth() {
        let mut written = serde_json::to_value(record(&SandboxId::new())).unwrap();
        assert!(serde_json::from_value::<Record>(written.clone()).unwrap().knows_bandwidth);
        written.as_object_mut().unwrap().remove("knows_bandwidth").unwrap();
        assert!(!serde_json::from_value::<Record>(written).unwrap().knows_bandwidth);
    }

    #[test]
    fn records_are_found_again_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (one, two) = (SandboxId::new(), SandboxId::new());
        let secrets = Secrets { access_token: "t".to_owned(), ..Secrets::default() };
        records.begin(&record(&one), &secrets).unwrap();
        records.begin(&record(&two), &secrets).unwrap();
        records.write(&Record { state: State::Running, phase: Phase::Live, ..record(&two) }).unwrap();
        fs::write(records.directory_of(&one).join("guest.sock"), b"").unwrap();
        records.remove(&one).unwrap();
        records.remove(&one).unwrap();
        let (found, torn) = records.load().unwrap();
        assert_eq!(found, [Record { state: State::Running, phase: Phase::Live, ..record(&two) }]);
        assert!(torn.is_empty());
        assert!(records.secrets(&two).unwrap() == secrets);
    }

    #[test]
    fn a_directory_without_a_record_is_a_begin_or_an_end_cut_short_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = SandboxId::new();
        records.begin(&record(&id), &Secrets::default()).unwrap();
        fs::remove_file(records.directory_of(&id).join(RECORD)).unwrap();
        assert_eq!(records.load().unwrap(), (Vec::new(), Vec::new()));
        assert!(!records.directory_of(&id).exists());
    }

    #[test]
    fn a_record_that_a_power_cut_has_torn_is_reported_and_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = SandboxId::new();
        records.begin(&record(&id), &Secrets::default()).unwrap();
        for content in [&b""[..], b"{\"id\":\"sb-", b"\0\0\0\0"] {
            fs::write(records.directory_of(&id).join(RECORD), content).unwrap();
            let (found, torn) = records.load().unwrap();
            assert!(found.is_empty());
            assert_eq!(torn[0].id, id);
        }
    }
}
