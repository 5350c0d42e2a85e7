//! The key under which secrets lie in the database, and what is done with it: ChaCha20-Poly1305, a random nonce each,
//! bound to the team and the thing that the value is of, so that no row can be passed off as another.
//!
//! The key is a file that is not in the database: whoever gets the one alone can read nothing.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atoll_model::{SecretId, TeamId, WebhookId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretString};
use sha2::{Digest, Sha256};

const KEY_BYTES: usize = 32;
/// In the data directory.
const FILE: &str = "secrets.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is no key: it must hold 64 hexadecimal characters (`openssl rand -hex 32` makes them)", path = path.display())]
    NotAKey { path: PathBuf },
}

/// Why a value could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another server's, or an older one.
    #[error("it is encrypted under another key ({0}) than this server has; --secrets-key names the right one")]
    OtherKey(String),
    #[error("it is damaged")]
    Damaged,
}

/// What a value is of.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    Secret(&'a TeamId, &'a SecretId),
    Webhook(&'a TeamId, &'a WebhookId),
    /// A password of a proxy for what a team's sandboxes send out.
    EgressProxy(&'a TeamId),
}

impl Place<'_> {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Secret(team, secret) => format!("atoll secret\0{team}\0{secret}"),
            Self::Webhook(team, hook) => format!("atoll webhook\0{team}\0{hook}"),
            Self::EgressProxy(team) => format!("atoll egress proxy\0{team}"),
        }
        .into_bytes()
    }
}

pub struct Cipher {
    key: LessSafeKey,
    /// For fingerprints.
    raw: SecretBox<[u8; KEY_BYTES]>,
    id: String,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Cipher {
    /// The key in `file`, or the one in the data directory, made there when there is none yet.
    ///
    /// # Errors
    /// When it can't be read or made, or is no key.
    pub fn load(file: Option<&Path>, data_dir: &Path) -> Result<Self, KeyError> {
        let path = file.map_or_else(|| data_dir.join(FILE), Path::to_owned);
        let io = |action| {
            let path = path.clone();
            move |source| KeyError::Io { action, path, source }
        };
        if file.is_none() {
            make(&path).map_err(io("making the key of secrets in"))?;
        }
        let text: SecretString = std::fs::read_to_string(&path).map_err(io("reading the key of secrets in"))?.into();
        let mut raw = SecretBox::new(Box::new([0; KEY_BYTES]));
        let decoded = hex::decode_to_slice(text.expose_secret().trim(), raw.expose_secret_mut());
        decoded.map_err(|_| KeyError::NotAKey { path: path.clone() })?;
        Self::new(raw).ok_or(KeyError::NotAKey { path })
    }

    fn new(raw: SecretBox<[u8; KEY_BYTES]>) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, raw.expose_secret()).ok()?);
        let id = Sha256::new().chain_update(b"atoll secrets key\0").chain_update(raw.expose_secret()).finalize();
        Some(Self { key, raw, id: hex::encode(&id[..8]) })
    }

    #[cfg(test)]
    #[must_use]
    pub fn for_tests(byte: u8) -> Self {
        Self::new(SecretBox::new(Box::new([byte; KEY_BYTES]))).unwrap()
    }

    /// A name for the key, which tells nothing about it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value, encrypted for this place; none if the machine has no randomness, which never is.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, value: &str) -> Option<String> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut bytes = value.as_bytes().to_vec();
        let place = place.bytes();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&place), &mut bytes).ok()?;
        Some(STANDARD.encode([&nonce[..], &bytes].concat()))
    }

    /// # Errors
    /// When it was sealed under another key or for another place, or has changed.
    pub fn open(&self, place: Place<'_>, key_id: &str, sealed: &str) -> Result<SecretString, OpenError> {
        if key_id != self.id {
            return Err(OpenError::OtherKey(key_id.to_owned()));
        }
        let mut bytes = STANDARD.decode(sealed).map_err(|_| OpenError::Damaged)?;
        let (nonce, rest) = bytes.split_first_chunk_mut::<NONCE_LEN>().ok_or(OpenError::Damaged)?;
        let (nonce, place) = (Nonce::assume_unique_for_key(*nonce), place.bytes());
        let plain = self.key.open_in_place(nonce, Aad::from(&place), rest).map_err(|_| OpenError::Damaged)?;
        let text = std::str::from_utf8(plain).map_err(|_| OpenError::Damaged)?;
        Ok(text.to_owned().into())
    }

    /// Tells values apart without giving anything away to somebody who has not the key: a plain hash of a short value
    /// could be guessed.
    #[must_use]
    pub fn fingerprint(&self, value: &str) -> String {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(self.raw.expose_secret());
        let Ok(mut mac) = mac else { return String::new() };
        mac.update(b"atoll secret value\0");
        mac.update(value.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

/// Makes the file whole, or not at all; leaves one that is there.
fn make(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // Mode 0600, as temporary files are.
    let mut file = tempfile::Builder::new().prefix(".secrets-key-").tempfile_in(folder)?;
    writeln!(file, "{}", hex::encode(rand::random::<[u8; KEY_BYTES]>()))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
        _ => {}
    }
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cipher::load(None, dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Cipher::load(None, dir.path()).unwrap().id(), first.id());
        assert_eq!(Cipher::load(Some(&path), Path::new("/nowhere")).unwrap().id(), first.id());
        for wrong in ["", "abc", &"g".repeat(64), &"a".repeat(62)] {
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(Cipher::load(None, dir.path()), Err(KeyError::NotAKey { .. })), "{wrong}");
        }
        let missing = dir.path().join("none");
        assert!(matches!(Cipher::load(Some(&missing), dir.path()), Err(KeyError::Io { .. })));
    }

    #[test]
    fn a_value_is_of_one_place_and_one_key_alone() {
        let (cipher, team, secret) = (Cipher::for_tests(1), TeamId::new(), SecretId::new());
        let sealed = cipher.seal(Place::Secret(&team, &secret), "hunter2").unwrap();
        let open = |cipher: &Cipher, team: &TeamId, secret: &SecretId| {
            cipher.open(Place::Secret(team, secret), cipher.id(), &sealed).map(|value| value.expose_secret().to_owned())
        };
        assert_eq!(open(&cipher, &team, &secret).unwrap(), "hunter2");
        assert_eq!(open(&cipher, &TeamId::new(), &secret), Err(OpenError::Damaged));
        assert_eq!(open(&cipher, &team, &SecretId::new()), Err(OpenError::Damaged));
        assert_eq!(open(&Cipher::for_tests(2), &team, &secret), Err(OpenError::Damaged));
        let other = cipher.open(Place::Secret(&team, &secret), "0123456789abcdef", &sealed).unwrap_err();
        assert_eq!(other, OpenError::OtherKey("0123456789abcdef".to_owned()));
        assert!(
            !sealed.contains("hunter2") && cipher.seal(Place::Secret(&team, &secret), "hunter2").unwrap() != sealed
        );
        assert_eq!(cipher.fingerprint("a"), cipher.fingerprint("a"));
        assert_ne!(cipher.fingerprint("a"), Cipher::for_tests(2).fingerprint("a"));
    }

    proptest! {
        #[test]
        fn every_value_comes_back_and_no_damage_goes_unseen(value in ".{0,300}", at in any::<usize>(), bit in 0u8..8) {
            let (cipher, team, secret) = (Cipher::for_tests(7), TeamId::new(), SecretId::new());
            let sealed = cipher.seal(Place::Secret(&team, &secret), &value).unwrap();
            let opened = cipher.open(Place::Secret(&team, &secret), cipher.id(), &sealed).unwrap();
            prop_assert_eq!(opened.expose_secret(), &value);
            let mut bytes = STANDARD.decode(&sealed).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let damaged = STANDARD.encode(bytes);
            prop_assert_eq!(cipher.open(Place::Secret(&team, &secret), cipher.id(), &damaged).err(), Some(OpenError::Damaged));
        }

        #[test]
        fn nonsense_is_refused(sealed in ".{0,80}") {
            let (cipher, team, secret) = (Cipher::for_tests(7), TeamId::new(), SecretId::new());
            prop_assert!(cipher.open(Place::Secret(&team, &secret), cipher.id(), &sealed).is_err());
        }
    }
}
