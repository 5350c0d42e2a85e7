//! What of the contact with control outlives the agent: when it was last had, and whether all was paused and why.
//!
//! Written at every accepted heartbeat, without fsync: it must survive the agent's death, for which the page cache is
//! enough; after a reboot it no longer counts, and the boot id in it says so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::decision::{Millis, PauseCause};
use crate::agent::credentials::{Durability, replace};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    last_contact: Millis,
    paused: Option<PauseCause>,
}

/// The file `<data>/contact.json`.
#[derive(Debug, Clone)]
pub struct ContactMemory {
    path: PathBuf,
    boot_id: String,
}

impl ContactMemory {
    #[must_use]
    pub fn new(data_dir: &Path, boot_id: String) -> Self {
        Self { path: data_dir.join("contact.json"), boot_id }
    }

    /// When contact was last had (by this boot's clock) and what was paused for; nothing known counts as contact now.
    /// The rejection of a host outlives a reboot: it still is not welcome.
    #[must_use]
    pub fn recall(&self, now: Millis) -> (Millis, Option<PauseCause>) {
        let read = std::fs::read(&self.path).ok();
        match read.and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok()) {
            Some(it) if it.boot_id == self.boot_id => (it.last_contact.min(now), it.paused),
            Some(it) => (now, it.paused.filter(|cause| *cause == PauseCause::Rejected)),
            None => (now, None),
        }
    }

    /// A failure is only logged: what is lost is a memory that errs on the side of trying again.
    pub fn remember(&self, last_contact: Millis, paused: Option<PauseCause>) {
        let it = Remembered { boot_id: self.boot_id.clone(), last_contact, paused };
        let written = serde_json::to_vec(&it)
            .map_err(std::io::Error::other)
            .and_then(|bytes| replace(&self.path, &bytes, Durability::Process));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "can't remember the last contact with control");
        }
    }

    pub fn forget(&self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_of_contact_is_remembered_over_a_restart_but_not_over_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let memory = ContactMemory::new(dir.path(), "boot-1".to_owned());
        assert_eq!(memory.recall(500), (500, None));
        memory.remember(100, Some(PauseCause::ContactLost));
        assert_eq!(memory.recall(500), (100, Some(PauseCause::ContactLost)));
        let rebooted = ContactMemory::new(dir.path(), "boot-2".to_owned());
        assert_eq!(rebooted.recall(7), (7, None));
    }

    #[test]
    fn a_rejection_is_remembered_over_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        ContactMemory::new(dir.path(), "boot-1".to_owned()).remember(100, Some(PauseCause::Rejected));
        let rebooted = ContactMemory::new(dir.path(), "boot-2".to_owned());
        assert_eq!(rebooted.recall(7), (7, Some(PauseCause::Rejected)));
    }
}
