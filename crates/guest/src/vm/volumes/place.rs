//! Where a volume is mounted: a directory, made where it is missing, that lies in no other volume.
//!
//! Links on the way are followed, and lead wherever the sandbox's files say. A way that led through a volume would be asked
//! of the one who is about to mount: so no step leaves the file system that it begins in while volumes are mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub struct Place {
    pub dir: OwnedFd,
    /// As it is without links.
    pub path: PathBuf,
}

impl Place {
    /// The directory with this absolute path. None of those that are `taken` may lie in it, nor it in one of them.
    pub fn find(path: &str, has_mounts: bool, taken: &[PathBuf]) -> io::Result<Self> {
        let resolve = if has_mounts { ResolveFlags::NO_XDEV } else { ResolveFlags::empty() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open("/", flags, Mode::empty())?;
        for name in Path::new(path).iter().skip(1) {
            let open = || rustix::fs::openat2(&dir, name, flags, Mode::empty(), resolve);
            let opened = match open() {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(error) => Err(error),
                },
                opened => opened,
            };
            dir = opened.map_err(|error| match error {
                Errno::XDEV => io::Error::new(io::ErrorKind::InvalidInput, "its way leads over another mount"),
                error => error.into(),
            })?;
        }
        let path = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        match taken.iter().find(|other| path.starts_with(other) || other.starts_with(&path)) {
            Some(other) => {
                let text = format!("{} and {} lie in each other", path.display(), other.display());
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            None => Ok(Self { dir, path }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_on_but_no_place_lies_in_another_and_no_way_over_a_mount() {
        let temporary = tempfile::tempdir_in("/var/tmp").unwrap();
        let top = fs::canonicalize(temporary.path()).unwrap();
        let path = |inside: &str| top.join(inside).to_str().unwrap().to_owned();
        fs::create_dir(top.join("real")).unwrap();
        symlink("real", top.join("link")).unwrap();
        symlink("/proc/self", top.join("away")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        fs::write(top.join("file"), "").unwrap();
        let find = |inside: &str, has_mounts: bool, taken: &[PathBuf]| Place::find(&path(inside), has_mounts, taken);
        for has_mounts in [false, true] {
            let place = find("link/new/deep", has_mounts, &[top.join("real/new/dee"), top.join("other")]).unwrap();
            assert_eq!(place.path, top.join("real/new/deep"));
            assert!(top.join("real/new/deep").is_dir());
        }
        for taken in ["real", "real/new/deep", "real/new/deep/er"] {
            let refused = find("link/new/deep", false, &[top.join(taken)]).err().unwrap();
            assert!(refused.to_string().contains("lie in each other"), "{refused}");
        }
        assert!(find("away", false, &[]).is_ok());
        let refused = find("away", true, &[]).err().unwrap();
        assert!(refused.to_string().contains("over another mount"), "{refused}");
        for nothing in ["dangling", "dangling/x", "file", "file/x"] {
            assert!(find(nothing, false, &[]).is_err(), "{nothing}");
        }
    }
}
