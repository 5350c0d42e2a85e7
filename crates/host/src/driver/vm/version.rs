//! What machines run on here, in words: memory of a machine goes on where these are the same.
//!
//! That is QEMU itself, as its package names it, and what a guest sees of the processor: under KVM the processor, in
//! software the rate of its counter, by which the guest tells the time. Control compares the words and shows them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::accel::Accel;

/// More than any package's name has.
const LONGEST: usize = 120;

pub(super) struct Version {
    program: PathBuf,
    accel: Accel,
    /// By the stamp of the file that said so.
    known: Mutex<Option<(String, String)>>,
}

impl Version {
    pub fn new(program: &Path, accel: Accel) -> Self {
        Self { program: program.to_owned(), accel, known: Mutex::default() }
    }

    /// Tells one file of QEMU from another.
    pub fn stamp(&self) -> io::Result<String> {
        fs::metadata(&self.program).map(|it| format!("{} {}", it.len(), it.mtime()))
    }

    /// QEMU is asked again when its file is another, as after an upgrade. Blocks, for some hundredths of a second then.
    pub fn now(&self) -> io::Result<String> {
        let stamp = self.stamp()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, version)) = &*known
            && *of == stamp
        {
            return Ok(version.clone());
        }
        let asked = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output()?;
        let name = named(&String::from_utf8_lossy(&asked.stdout))
            .ok_or_else(|| io::Error::other(format!("{} does not say its version", self.program.display())))?;
        let version = format!("{name}, {}", self.accel.processor());
        *known = Some((stamp, version.clone()));
        Ok(version)
    }
}

/// What QEMU says of itself, in one line.
fn named(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("QEMU"))?;
    let line = line.replacen("emulator version ", "", 1);
    Some(line.chars().filter(|letter| (' '..='~').contains(letter)).take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn qemu_is_named_as_its_package_is() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022 ...\n";
        assert_eq!(named(text).as_deref(), Some("QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"));
        assert_eq!(named("something else\n"), None);
    }

    #[test]
    fn another_file_is_asked_again_and_the_same_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (program, asked) = (dir.path().join("qemu"), dir.path().join("asked"));
        let install = |version: &str| {
            let text = format!("#!/bin/sh\necho >> {}\necho QEMU emulator version {version}\n", asked.display());
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let version = Version::new(&program, Accel::Tcg);
        assert!(version.now().is_err(), "there is none");
        install("7.2");
        for _ in 0..2 {
            assert!(version.now().unwrap().starts_with("QEMU 7.2, software"));
        }
        assert_eq!(fs::read(&asked).unwrap().len(), 1);
        install("10.0.1");
        assert!(version.now().unwrap().starts_with("QEMU 10.0.1, software"));
    }
}
