//! The certificate authority of this host's sandboxes: they trust it, nobody else does.
//!
//! It signs what the egress proxy shows to a sandbox for a name whose requests get headers from it. Its key never leaves
//! `<data>/egress-ca.pem` (0600). A sandbox that begins with another's files on another host gets that host's.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

const FILE: &str = "egress-ca.pem";
/// Sandboxes' clocks may be somewhat off.
const SKEW: time::Duration = time::Duration::days(2);
const CA_LIFETIME: time::Duration = time::Duration::days(20 * 365);
const LEAF_LIFETIME: time::Duration = time::Duration::days(30);
/// Certificates are used again for this long.
const LEAF_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Names whose certificates are kept: with a wildcard in its policy, a sandbox may ask for any number.
const MAX_LEAVES: usize = 512;

/// Made when the first sandbox needs it.
#[derive(Debug)]
pub struct Authority {
    path: PathBuf,
    made: OnceLock<Arc<Made>>,
    making: Mutex<()>,
}

struct Made {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// Of all leaves: making one takes longer than signing for it.
    key: KeyPair,
    leaves: Mutex<lru::Leaves>,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

impl Authority {
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE), made: OnceLock::new(), making: Mutex::default() }
    }

    /// Its certificate, for sandboxes to trust. Blocks for the disk the first time.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn pem(&self) -> io::Result<String> {
        Ok(self.made()?.pem.clone())
    }

    /// What to speak TLS with as this name. Blocks for a millisecond where the name is new.
    ///
    /// # Errors
    /// When the authority can't be read or made, or the name is none.
    pub fn server(&self, name: &str) -> io::Result<Arc<ServerConfig>> {
        let made = self.made()?;
        let now = Instant::now();
        if let Some(config) = made.leaves().get(name, now) {
            return Ok(config);
        }
        let config = Arc::new(made.leaf(name).map_err(io::Error::other)?);
        made.leaves().insert(name, config.clone(), now);
        Ok(config)
    }

    fn made(&self) -> io::Result<Arc<Made>> {
        if let Some(made) = self.made.get() {
            return Ok(made.clone());
        }
        let _one_makes_it = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = self.made.get() {
            return Ok(made.clone());
        }
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&self.path)?,
            Err(error) => return Err(error),
        };
        let made = Made::parse(&text).map_err(|error| {
            let problem = format!("{}: {error} (remove it, and sandboxes get another)", self.path.display());
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        Ok(self.made.get_or_init(|| Arc::new(made)).clone())
    }
}

impl Made {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let der = CertificateDer::from_pem_slice(text.as_bytes())?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(text)?)?;
        let at = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(0);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { pem: text[at..].trim().to_owned() + "\n", issuer, key, leaves: Mutex::default() })
    }

    fn leaf(&self, name: &str) -> anyhow::Result<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - SKEW, now + LEAF_LIFETIME);
        // A common name has 64 characters at most; what counts is the alternative name.
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(anyhow::Error::msg)?;
        let mut config = ServerConfig::builder_with_provider(crate::agent::trust::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, lru::Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the authority whole, or not at all; answers its key and certificate.
fn make(path: &Path) -> io::Result<String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + CA_LIFETIME);
    let name = format!("Atoll egress {}", hex::encode(rand::random::<[u8; 4]>()));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    let text = key.serialize_pem() + &certificate.pem();
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // Mode 0600, as temporary files are.
    let mut file = tempfile::Builder::new().prefix(".egress-ca-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(text)
}

/// Certificates of names, the oldest gone first.
mod lru {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Instant;

    use rustls::ServerConfig;

    use super::{LEAF_KEPT, MAX_LEAVES};

    #[derive(Default)]
    pub struct Leaves(HashMap<String, (Arc<ServerConfig>, Instant)>);

    impl Leaves {
        pub fn get(&self, name: &str, now: Instant) -> Option<Arc<ServerConfig>> {
            let (config, made) = self.0.get(name)?;
            (now.saturating_duration_since(*made) < LEAF_KEPT).then(|| config.clone())
        }

        pub fn insert(&mut self, name: &str, config: Arc<ServerConfig>, now: Instant) {
            if self.0.len() >= MAX_LEAVES
                && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, made))| *made).map(|(name, _)| name.clone())
            {
                self.0.remove(&oldest);
            }
            self.0.insert(name.to_owned(), (config, now));
        }

        #[cfg(test)]
        pub fn len(&self) -> usize {
            self.0.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_its_key_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pem = Authority::new(dir.path()).pem().unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE KEY"), "{pem}");
        assert_eq!(Authority::new(dir.path()).pem().unwrap(), pem);
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(FILE), "nonsense").unwrap();
        let error = Authority::new(dir.path()).pem().unwrap_err();
        assert!(error.to_string().contains("egress-ca.pem"), "{error}");
    }

    #[test]
    fn names_share_room_for_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        let first = authority.server("0.example.com").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server("0.example.com").unwrap()));
        for number in 1..=MAX_LEAVES {
            authority.server(&format!("{number}.example.com")).unwrap();
        }
        assert_eq!(authority.made().unwrap().leaves().len(), MAX_LEAVES);
        assert!(!Arc::ptr_eq(&first, &authority.server("0.example.com").unwrap()), "the oldest has gone");
    }
}
