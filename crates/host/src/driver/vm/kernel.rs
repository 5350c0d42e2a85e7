//! The kernel of virtual machines: Debian's for clouds, kept with the modules that are needed in the machine-wide cache
//! (`<cache>/kernels/<version>/`), and the initramfs made of them and the guest agent.
//!
//! It is taken from the machine if it is installed, or fetched by `apt-get download` and unpacked; nothing is installed.
//! Whoever comes first makes it, under a lock; a directory there is whole, since it is renamed into place.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::initramfs::Archive;
use super::unpack;

/// The package that always depends on the newest.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
const PACKAGE_PREFIX: &str = "linux-image-";
const FLAVOUR: &str = "cloud-amd64";

/// What the guest needs, each after those that it needs itself. What a kernel has built in is no file of it.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "virtio_console",
    "rng-core",
    "virtio-rng",
    "virtio_balloon",
    "libcrc32c",
    "erofs",
    "overlay",
    "fuse",
];

/// Of the archive: another one whenever something else is made of the same modules.
const FORMAT: &str = "modules without signatures";
/// Beside the modules: which were looked for when they were taken. What is not among them then is built in, or nowhere.
const LOOKED_FOR: &str = "looked-for";

/// A kernel and the first file system to boot it with.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub version: String,
    pub image: PathBuf,
    pub initramfs: PathBuf,
}

impl Kernel {
    /// The newest that the cache has; none when it has none.
    ///
    /// # Errors
    /// When the initramfs can't be made.
    pub fn cached(cache: &Path, guest: &[u8]) -> io::Result<Option<Self>> {
        let newest = newest(cache, true).or_else(|| newest(cache, false));
        newest.map(|version| Self::with_initramfs(cache, version, guest)).transpose()
    }

    /// The same; made first where there is none, or none with all modules that are needed by now. Takes seconds then, and
    /// the network.
    ///
    /// # Errors
    /// When none can be had; the message says what to do.
    pub fn ensure(cache: &Path, guest: &[u8]) -> io::Result<Self> {
        let folder = cache.join("kernels");
        fs::create_dir_all(&folder).map_err(|error| named(&folder, &error))?;
        let lock = File::create(folder.join("lock"))?;
        rustix::fs::flock(lock.as_fd(), FlockOperation::LockExclusive)?;
        if newest(cache, true).is_none()
            && let Err(error) = take(&folder)
        {
            // An older agent has left one that does most of what is wanted.
            if newest(cache, false).is_none() {
                return Err(error);
            }
            tracing::warn!(%error, "machines go on with a kernel that can't mount volumes");
        }
        Self::cached(cache, guest)?.ok_or_else(|| missing("it has gone from the cache"))
    }

    fn with_initramfs(cache: &Path, version: String, guest: &[u8]) -> io::Result<Self> {
        let folder = cache.join("kernels").join(&version);
        let modules = folder.join("modules");
        let mut hash = Sha256::new_with_prefix(guest);
        hash.update(FORMAT);
        for name in MODULES.iter().filter(|name| modules.join(format!("{name}.ko")).exists()) {
            hash.update(name);
        }
        let digest = hex::encode(&hash.finalize()[..12]);
        let initramfs = folder.join(format!("initramfs-{digest}"));
        if !initramfs.exists() {
            let bytes = initramfs_of(&modules, guest)?;
            let draft = tempfile::Builder::new().prefix(".draft-").tempfile_in(&folder)?;
            fs::write(draft.path(), bytes)?;
            fs::set_permissions(draft.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            draft.persist(&initramfs).map_err(|error| named(&initramfs, &error.error))?;
        }
        Ok(Self { image: plain(&folder), initramfs, version })
    }
}

/// The kernel without what unpacks it, made where it is not there yet; or else as it came.
fn plain(folder: &Path) -> PathBuf {
    let (packed, plain) = (folder.join("vmlinuz"), folder.join("vmlinux"));
    if plain.exists() {
        return plain;
    }
    let make = || -> io::Result<bool> {
        let Some(kernel) = unpack::kernel(&fs::read(&packed)?) else { return Ok(false) };
        let draft = tempfile::Builder::new().prefix(".draft-").tempfile_in(folder)?;
        fs::write(draft.path(), kernel)?;
        fs::set_permissions(draft.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        draft.persist(&plain).map_err(|error| error.error).map(|_| true)
    };
    match make() {
        Ok(true) => plain,
        Ok(false) => packed,
        Err(error) => {
            tracing::warn!(%error, "machines unpack their kernel by themselves, which takes them longer to boot");
            packed
        }
    }
}

/// The newest version in the cache, if need be only among those that have all modules.
fn newest(cache: &Path, whole: bool) -> Option<String> {
    let looked_for = |folder: &Path| fs::read_to_string(folder.join("modules").join(LOOKED_FOR)).unwrap_or_default();
    let mut versions: Vec<_> = fs::read_dir(cache.join("kernels"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("vmlinuz").is_file())
        .filter(|entry| !whole || looked_for(&entry.path()) == MODULES.join("\n"))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    versions.sort_by_key(|version| numbers(version));
    versions.pop()
}

/// Takes the machine's own kernel, or the newest that can be fetched, into the cache.
fn take(folder: &Path) -> io::Result<()> {
    let draft = tempfile::Builder::new().prefix(".draft-").tempdir_in(folder)?;
    let version = match installed() {
        Some((version, image)) => {
            keep(&version, &image, Path::new("/lib/modules"), draft.path())?;
            version
        }
        None => fetch(draft.path())?,
    };
    let place = folder.join(&version);
    if place.exists() {
        return complete(draft.path(), &place);
    }
    fs::set_permissions(draft.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(draft.path(), &place).map_err(|error| named(&place, &error))?;
    let _moved = draft.keep();
    Ok(())
}

/// The same version, taken when fewer modules were needed, gets the others; what says so comes last.
fn complete(draft: &Path, place: &Path) -> io::Result<()> {
    let (from, to) = (draft.join("modules"), place.join("modules"));
    for entry in fs::read_dir(&from)?.flatten().filter(|entry| entry.file_name() != LOOKED_FOR) {
        fs::rename(entry.path(), to.join(entry.file_name())).map_err(|error| named(&to, &error))?;
    }
    fs::rename(from.join(LOOKED_FOR), to.join(LOOKED_FOR)).map_err(|error| named(&to, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The numbers in a version, so that 6.1.0-56 is newer than 6.1.0-9.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn initramfs_of(modules: &Path, guest: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 0o600, (5, 1));
    let mut order = String::new();
    for name in MODULES {
        match fs::read(modules.join(format!("{name}.ko"))).map(unsigned) {
            Ok(bytes) => {
                archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
                order.push_str(&format!("{name}.ko\n"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(named(modules, &error)),
        }
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, guest);
    Ok(archive.finish())
}

/// A module without its signature, if it has one. The guest's kernel asks nobody else for modules before it has these,
/// and to look at the signatures of all takes it a tenth of a second in software.
///
/// Format: the kernel's `struct module_signature` (its length as 32 bits, big-endian, at its end) behind the signature,
/// and a line behind that.
fn unsigned(mut module: Vec<u8>) -> Vec<u8> {
    const LINE: &[u8] = b"~Module signature appended~\n";
    const HEAD: usize = 12;
    let signature = module.strip_suffix(LINE).and_then(|rest| {
        let (rest, length) = rest.split_last_chunk::<4>()?;
        rest.len().checked_sub(HEAD - length.len())?.checked_sub(u32::from_be_bytes(*length) as usize)
    });
    module.truncate(signature.unwrap_or(module.len()));
    module
}

/// One that is installed on this machine, with its modules.
fn installed() -> Option<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir("/boot")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            let complete = version.ends_with(FLAVOUR) && Path::new("/lib/modules").join(&version).is_dir();
            complete.then(|| (version, entry.path()))
        })
        .collect();
    found.sort_by_key(|(version, _)| numbers(version));
    found.pop()
}

/// Downloads the newest and unpacks it into `draft`.
fn fetch(draft: &Path) -> io::Result<String> {
    let depends = run(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(PACKAGE_PREFIX) && name.ends_with(FLAVOUR))
        .ok_or_else(|| missing(&format!("apt knows no package {META_PACKAGE}")))?
        .to_owned();
    let version = package.trim_start_matches(PACKAGE_PREFIX).to_owned();
    let work = tempfile::Builder::new().prefix("atoll-kernel-").tempdir()?;
    run(Command::new("apt-get").args(["-q", "download", &package]).current_dir(work.path()))?;
    let archive = fs::read_dir(work.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .ok_or_else(|| missing("apt-get download left no package"))?;
    let unpacked = work.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let image = unpacked.join("boot").join(format!("vmlinuz-{version}"));
    // Where `/lib` is a link, packages put them where it leads.
    let modules = ["usr/lib/modules", "lib/modules"].map(|folder| unpacked.join(folder));
    let modules = modules.iter().find(|folder| folder.is_dir());
    keep(&version, &image, modules.ok_or_else(|| missing("the package has no modules"))?, draft)?;
    Ok(version)
}

fn missing(what: &str) -> io::Error {
    let remedy = format!("run `apt-get update`, or install {META_PACKAGE}");
    io::Error::new(io::ErrorKind::NotFound, format!("no kernel for virtual machines: {what}; {remedy}"))
}

fn run(command: &mut Command) -> io::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| missing(&format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(missing(&format!("{name}: {}", text.trim().lines().last().unwrap_or("failed without a word"))))
}

/// Copies the image and the modules that are needed.
fn keep(version: &str, image: &Path, modules: &Path, draft: &Path) -> io::Result<()> {
    let copy = |from: &Path, to: &Path| fs::copy(from, to).map(drop).map_err(|error| named(from, &error));
    copy(image, &draft.join("vmlinuz"))?;
    let target = draft.join("modules");
    fs::create_dir(&target)?;
    let mut folders = vec![modules.join(version).join("kernel")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| named(&folder, &error))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if name.strip_suffix(".ko").is_some_and(|name| MODULES.contains(&name)) {
                copy(&path, &target.join(&*name))?;
            } else if name.strip_suffix(".ko.xz").is_some_and(|name| MODULES.contains(&name)) {
                let unpacked = Command::new("xz").arg("-dc").arg(&path).output();
                let unpacked = unpacked.map_err(|error| missing(&format!("xz: {error} (xz-utils)")))?;
                if !unpacked.status.success() {
                    return Err(missing(&format!("xz can't unpack {}", path.display())));
                }
                fs::write(target.join(name.trim_end_matches(".xz")), unpacked.stdout)?;
            }
        }
    }
    fs::write(target.join(LOOKED_FOR), MODULES.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_off_as_a_whole_or_not_at_all() {
        let line = &b"~Module signature appended~\n"[..];
        let signed = |length: u32| [b"module", &[7; 40][..], &[0; 8], &length.to_be_bytes(), line].concat();
        assert_eq!(unsigned(signed(40)), b"module");
        for strange in [signed(47), signed(u32::MAX), line.to_vec(), b"module".to_vec(), [b"abc", line].concat()] {
            assert_eq!(unsigned(strange.clone()), strange);
        }
    }

    #[test]
    fn newer_is_counted_not_spelt() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
        assert!(numbers("6.12.0-1-cloud-amd64") > numbers("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn the_newest_in_the_cache_gets_an_initramfs_of_its_modules_and_the_guest() {
        let cache = tempfile::tempdir().unwrap();
        assert!(Kernel::cached(cache.path(), b"guest").unwrap().is_none());
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"] {
            let folder = cache.path().join("kernels").join(version);
            fs::create_dir_all(folder.join("modules")).unwrap();
            fs::write(folder.join("vmlinuz"), b"kernel").unwrap();
            fs::write(folder.join("modules/erofs.ko"), b"module").unwrap();
        }
        let kernel = Kernel::cached(cache.path(), b"guest").unwrap().unwrap();
        assert_eq!(kernel.version, "6.1.0-56-cloud-amd64");
        let text = String::from_utf8_lossy(&fs::read(&kernel.initramfs).unwrap()).into_owned();
        assert!(text.contains("modules/erofs.ko") && text.contains("erofs.ko\n") && text.contains("guest"));
        let other = Kernel::cached(cache.path(), b"another").unwrap().unwrap();
        assert_ne!(other.initramfs, kernel.initramfs);

        // One that has all modules goes before a newer one that an older agent has taken.
        let older = cache.path().join("kernels/6.1.0-9-cloud-amd64");
        let draft = cache.path().join("draft");
        fs::create_dir_all(draft.join("modules")).unwrap();
        fs::write(draft.join("modules/fuse.ko"), b"module").unwrap();
        fs::write(draft.join("modules").join(LOOKED_FOR), MODULES.join("\n")).unwrap();
        complete(&draft, &older).unwrap();
        let whole = Kernel::cached(cache.path(), b"guest").unwrap().unwrap();
        assert_eq!(whole.version, "6.1.0-9-cloud-amd64");
        let text = String::from_utf8_lossy(&fs::read(&whole.initramfs).unwrap()).into_owned();
        assert!(text.contains("modules/erofs.ko") && text.contains("modules/fuse.ko"));
        assert_eq!(Kernel::ensure(cache.path(), b"guest").unwrap().version, whole.version);
    }
}
