//! An authority that programs inside trust beside those of the image: the host's, which speaks for the servers to whose
//! requests it adds headers.
//!
//! There is no one place for it. It goes into the bundle of certificates that the image has, where most programs look;
//! beside those that `update-ca-certificates` makes the bundle of, so that it stays when that is made anew; and the
//! bundle is named in the variables that the others read (Python's `requests` and Node.js bring their own certificates).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::guest::Guest;

/// The bundle in images of Debian, Alpine and Arch, of Fedora and its kin, of SUSE. The first is made where none is.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// What `update-ca-certificates` reads.
const LOCAL: &str = "/usr/local/share/ca-certificates/atoll-egress.crt";
/// Far above what bundles have (200 KB).
const MAX_BUNDLE: u64 = 16 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The variables by which programs find certificates.
const VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
];

pub fn variables(bundle: &'static str) -> impl Iterator<Item = (String, String)> {
    VARIABLES.into_iter().map(move |name| (name.to_owned(), bundle.to_owned()))
}

/// Trusts what the host has named at the start, if it has.
pub fn begin(guest: &Guest) {
    let Some(pem) = guest.config().authority.clone() else { return };
    match install(&pem) {
        Ok(bundle) => guest.settings().set_trusted(bundle),
        Err(error) => guest.logs.error(format!("installing the host's certificate failed: {error}")),
    }
}

/// Has programs trust the authority; where the certificates are that they look at. Does nothing where it is trusted
/// already.
pub fn install(pem: &str) -> io::Result<&'static str> {
    install_in(Path::new("/"), pem)
}

fn install_in(root: &Path, pem: &str) -> io::Result<&'static str> {
    if !pem.starts_with(BEGIN) || !pem.is_ascii() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no certificate in PEM"));
    }
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    write_whole(&at(LOCAL), pem.as_bytes())?;
    let found = BUNDLES.into_iter().find(|path| fs::metadata(at(path)).is_ok_and(|bundle| bundle.is_file()));
    let bundle = found.unwrap_or(BUNDLES[0]);
    // A link is followed, and what it leads to replaced.
    let path = fs::canonicalize(at(bundle)).unwrap_or_else(|_| at(bundle));
    let mut text = match open(&path) {
        Ok(file) => {
            let mut text = Vec::new();
            if file.take(MAX_BUNDLE + 1).read_to_end(&mut text)? as u64 > MAX_BUNDLE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{bundle} is too large")));
            }
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if !text.windows(pem.len()).any(|window| window == pem.as_bytes()) {
        if text.last().is_some_and(|byte| *byte != b'\n') {
            text.push(b'\n');
        }
        text.extend(pem.as_bytes());
        write_whole(&path, &text)?;
    }
    Ok(bundle)
}

/// Whatever lies there, it is not waited for.
fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// In place of what is there: programs that read meanwhile get the one or the other.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder)?;
    let draft = folder.join(".atoll-egress.draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    drop(file);
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const OTHER: &str = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";

    #[test]
    fn the_images_bundle_gets_it_once_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join(&BUNDLES[0][1..]);
        fs::create_dir_all(bundle.parent().unwrap()).unwrap();
        fs::write(&bundle, "first, without an end of line").unwrap();
        for pem in [ONE, ONE, OTHER] {
            assert_eq!(install_in(dir.path(), pem).unwrap(), BUNDLES[0]);
        }
        assert_eq!(fs::read_to_string(&bundle).unwrap(), format!("first, without an end of line\n{ONE}{OTHER}"));
        assert_eq!(fs::read_to_string(dir.path().join(&LOCAL[1..])).unwrap(), OTHER);
        assert_eq!(fs::read_dir(bundle.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn an_image_without_certificates_has_this_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(install_in(dir.path(), ONE).unwrap(), BUNDLES[0]);
        assert_eq!(fs::read_to_string(dir.path().join(&BUNDLES[0][1..])).unwrap(), ONE);
        assert!(install_in(dir.path(), "nonsense").is_err());
    }

    #[test]
    fn another_systems_bundle_is_found_through_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("etc/pki/extracted.pem");
        let link = dir.path().join(&BUNDLES[1][1..]);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(&real, "old\n").unwrap();
        std::os::unix::fs::symlink("../../extracted.pem", &link).unwrap();
        assert_eq!(install_in(dir.path(), ONE).unwrap(), BUNDLES[1]);
        assert_eq!(fs::read_to_string(&real).unwrap(), format!("old\n{ONE}"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
