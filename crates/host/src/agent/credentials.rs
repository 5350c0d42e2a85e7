//! The host's credentials on disk: one file, replaced atomically, mode 0600, in a directory of its own.
//!
//! The file holds the current credentials, and the former ones until the current have worked once: a crash, a full
//! disk or a lost answer at any moment leaves at least one set that control still accepts. New credentials are on disk
//! before they are used. This file never talks to control.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use atoll_model::HostId;
use atoll_model::api::hosts::HostCredentials;
use serde::{Deserialize, Serialize};

use super::key::HostKey;

/// What proves that this is the host: control's answer, and the key that it certified.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    pub credentials: HostCredentials,
    /// PKCS #8, PEM.
    key: String,
    /// When these credentials were issued, by this host's clock.
    pub issued_at_ms: i64,
}

impl Identity {
    #[must_use]
    pub fn new(credentials: HostCredentials, key: &HostKey, issued_at_ms: i64) -> Self {
        Self { credentials, key: key.to_pem(), issued_at_ms }
    }

    #[must_use]
    pub fn host_id(&self) -> &HostId {
        &self.credentials.host_id
    }

    /// # Errors
    /// When the stored key is damaged.
    pub fn key(&self) -> anyhow::Result<HostKey> {
        HostKey::from_pem(&self.key).context("reading the host's private key from its credentials")
    }

    /// When to renew: at two thirds of the life of what expires first, token or certificate.
    #[must_use]
    pub fn renew_at_ms(&self) -> i64 {
        let expires = self.credentials.access_expires_at.min(self.credentials.certificate_expires_at);
        let life = (expires.timestamp_millis() - self.issued_at_ms).max(0);
        self.issued_at_ms + life / 3 * 2
    }
}

/// What the file holds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Stored {
    pub current: Identity,
    /// Kept until `current` has worked once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Identity>,
    /// Which registration token was used, so that one that still stands in the environment is not tried again.
    pub registered_with: String,
}

/// The file, and what it held when last read or written.
pub struct CredentialStore {
    directory: PathBuf,
    stored: ArcSwapOption<Stored>,
}

const FILE: &str = "host.json";
const ENROLMENT_KEY: &str = "enrolment-key.pem";

impl CredentialStore {
    /// Opens `<data>/credentials`, making the directory when it is missing.
    ///
    /// # Errors
    /// When it can't be made or read, or its file is damaged: a damaged file is never replaced silently.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let directory = data_dir.join("credentials");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        let stored = read(&directory.join(FILE))?;
        Ok(Self { directory, stored: ArcSwapOption::new(stored.map(Arc::new)) })
    }

    #[must_use]
    pub fn load(&self) -> Option<Arc<Stored>> {
        self.stored.load_full()
    }

    /// The host of the current credentials.
    #[must_use]
    pub fn host_id(&self) -> Option<HostId> {
        self.load().map(|stored| stored.current.host_id().clone())
    }

    /// Replaces what is stored; when this returns, it is on the disk.
    ///
    /// # Errors
    /// When the file can't be written; then the former one still stands.
    pub fn save(&self, stored: Stored) -> anyhow::Result<()> {
        let path = self.directory.join(FILE);
        let text = serde_json::to_vec(&stored).context("writing credentials as JSON")?;
        replace(&path, &text, Durability::Disk).with_context(|| format!("writing {}", path.display()))?;
        self.stored.store(Some(Arc::new(stored)));
        Ok(())
    }

    /// The current credentials have worked: the former are no longer needed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn confirm(&self) -> anyhow::Result<()> {
        match self.load() {
            Some(stored) if stored.former.is_some() => self.save(Stored { former: None, ..(*stored).clone() }),
            _ => Ok(()),
        }
    }

    /// Forgets everything: the host was deleted.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn forget(&self) -> anyhow::Result<()> {
        self.stored.store(None);
        for name in [FILE, ENROLMENT_KEY] {
            match fs::remove_file(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {name} of {}", self.directory.display()));
                }
                _ => {}
            }
        }
        sync_directory(&self.directory).context("removing credentials")
    }

    /// The key of an enrolment under way: kept on disk from before the request, so that a retry after a crash or a lost
    /// answer comes with the same key.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn enrolment_key(&self) -> anyhow::Result<HostKey> {
        let path = self.directory.join(ENROLMENT_KEY);
        if let Some(key) = fs::read_to_string(&path).ok().and_then(|pem| HostKey::from_pem(&pem).ok()) {
            return Ok(key);
        }
        let key = HostKey::generate().context("making the host's key pair")?;
        replace(&path, key.to_pem().as_bytes(), Durability::Disk)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(key)
    }

    /// The enrolment has come to its end, and its key is part of the credentials.
    pub fn enrolment_done(&self) {
        let path = self.directory.join(ENROLMENT_KEY);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "can't remove the key file of a finished enrolment");
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Stored>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged; restore it, or remove it and enrol again", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// How lasting a replacement must be before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives the death of this process (the page cache has it), not a power cut.
    Process,
    /// On the disk.
    Disk,
}

/// Replaces a file as a whole, mode 0600: whoever reads it sees all of the old or all of the new.
pub(crate) fn replace(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no parent"))?;
    // One writer at a time per file (the agent holds the data directory's lock), so a fixed name will do, and what a
    // crash leaves behind is overwritten by the next attempt.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    if durability == Durability::Disk {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if durability == Durability::Disk {
        sync_directory(directory)?;
    }
    Ok(())
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use atoll_model::api::hosts::HostSettings;
    use chrono::{DateTime, Utc};
    use std::os::unix::fs::PermissionsExt;

    pub(crate) fn credentials(access: &str) -> HostCredentials {
        let at = |ms| DateTime::<Utc>::from_timestamp_millis(ms).unwrap();
        HostCredentials {
            host_id: "host-aaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
            name: "reef".to_owned(),
            access_token: access.to_owned(),
            access_expires_at: at(900_000),
            refresh_token: "refresh".to_owned(),
            refresh_expires_at: at(9_000_000),
            certificate: String::new(),
            certificate_expires_at: at(600_000),
            ca: String::new(),
            settings: HostSettings { heartbeat_interval_ms: 30_000 },
        }
    }

    fn stored(access: &str) -> Stored {
        let key = HostKey::generate().unwrap();
        Stored { current: Identity::new(credentials(access), &key, 0), former: None, registered_with: String::new() }
    }

    #[test]
    fn credentials_are_found_again_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(dir.path()).unwrap();
        assert!(store.load().is_none());
        store.save(stored("one")).unwrap();
        let again = CredentialStore::open(dir.path()).unwrap();
        assert_eq!(again.load().unwrap().current.credentials.access_token, "one");
        let file = dir.path().join("credentials/host.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_former_credentials_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(dir.path()).unwrap();
        store.save(stored("one")).unwrap();
        // What a crash between the first byte and the rename leaves behind.
        fs::write(dir.path().join("credentials/host.json.new"), b"{\"current\":{\"cred").unwrap();
        let again = CredentialStore::open(dir.path()).unwrap();
        assert_eq!(again.load().unwrap().current.credentials.access_token, "one");
        again.save(stored("two")).unwrap();
        assert!(!dir.path().join("credentials/host.json.new").exists());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        CredentialStore::open(dir.path()).unwrap().save(stored("one")).unwrap();
        let file = dir.path().join("credentials/host.json");
        fs::write(&file, b"torn").unwrap();
        assert!(CredentialStore::open(dir.path()).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"torn");
    }

    #[test]
    fn the_former_credentials_are_kept_until_the_new_have_worked() {
        let dir = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(dir.path()).unwrap();
        let first = stored("one");
        store.save(Stored { former: Some(first.current), ..stored("two") }).unwrap();
        let again = CredentialStore::open(dir.path()).unwrap();
        assert_eq!(again.load().unwrap().former.as_ref().unwrap().credentials.access_token, "one");
        again.confirm().unwrap();
        assert!(CredentialStore::open(dir.path()).unwrap().load().unwrap().former.is_none());
    }

    #[test]
    fn a_retried_enrolment_comes_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = CredentialStore::open(dir.path()).unwrap().enrolment_key().unwrap();
        assert_eq!(CredentialStore::open(dir.path()).unwrap().enrolment_key().unwrap().to_pem(), key.to_pem());
    }

    #[test]
    fn renewal_is_due_at_two_thirds_of_what_expires_first() {
        let identity = stored("one").current;
        assert_eq!(identity.renew_at_ms(), 400_000);
    }
}
