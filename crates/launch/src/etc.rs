//! The files in /etc that say who a sandbox is: host name, hosts, machine id, resolver. Plain files of its own layer.
//!
//! A new layer gets them from the agent while its child is being cloned, at a quarter of what it costs through the
//! overlay, which would first copy /etc up. A layer that has been lived in may hold links that lead anywhere, so there
//! the child writes them, from inside.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use super::child::{Attempt, Attempted};
use super::wire::Plan;

/// File names, and what is in them.
fn contents(plan: &Plan) -> [(&'static str, String); 4] {
    let host = &plan.hostname;
    [
        ("hostname", format!("{host}\n")),
        (
            "hosts",
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{host}\n", plan.address),
        ),
        ("machine-id", format!("{}\n", plan.machine_id)),
        ("resolv.conf", format!("nameserver {}\n", plan.nameserver)),
    ]
}

/// Lays them into `upper`, an empty layer over `lowers` (topmost first). Tells whether it did: where /etc is no
/// directory in the image, what it should be is decided from inside.
pub fn lay<'a>(upper: &Path, lowers: impl Iterator<Item = &'a Path>, plan: &Plan) -> io::Result<bool> {
    let mut found = lowers.filter_map(|lower| fs::symlink_metadata(lower.join("etc")).ok());
    let Some(like) = found.next().filter(fs::Metadata::is_dir) else { return Ok(false) };
    let etc = upper.join("etc");
    fs::DirBuilder::new().mode(0o700).create(&etc)?;
    for (name, text) in contents(plan) {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(etc.join(name))?;
        file.write_all(text.as_bytes())?;
        // Whatever the agent's mask is.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    chown(&etc, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(&etc, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    Ok(true)
}

/// Writes them from inside the new root, in place of whatever is there.
pub(super) fn write(plan: &Plan) -> Attempt<()> {
    contents(plan).iter().try_for_each(|(name, text)| replace(&format!("/etc/{name}"), text))
}

fn replace(path: &str, text: &str) -> Attempt<()> {
    let open = || {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).custom_flags(flags).open(path)
    };
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all("/etc").attempted(|| "making /etc".to_owned())?;
            open()
        }
        // A symbolic link (resolv.conf often is one), or a pipe without a reader.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            fs::remove_file(path).attempted(|| format!("removing {path}"))?;
            open()
        }
        result => result,
    };
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.attempted(|| format!("writing {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn plan() -> Plan {
        Plan {
            tasks: 0,
            cgroup_views: Vec::new(),
            hostname: "island".to_owned(),
            machine_id: "0".repeat(32),
            address: Ipv4Addr::new(10, 0, 0, 2),
            nameserver: Ipv4Addr::new(10, 0, 0, 1),
            etc_laid: false,
            cpus: Vec::new(),
            shm_bytes: 0,
            fail_at: None,
        }
    }

    #[test]
    fn a_new_layer_gets_the_files_in_a_directory_like_the_images() {
        let dir = tempfile::tempdir().unwrap();
        let (above, below, upper) = (dir.path().join("above"), dir.path().join("below"), dir.path().join("upper"));
        fs::create_dir_all(&above).unwrap();
        fs::create_dir_all(below.join("etc")).unwrap();
        fs::create_dir_all(&upper).unwrap();
        fs::set_permissions(below.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(lay(&upper, [above.as_path(), below.as_path()].into_iter(), &plan()).unwrap());
        assert_eq!(fs::metadata(upper.join("etc")).unwrap().mode() & 0o7777, 0o711);
        for (name, text) in contents(&plan()) {
            assert_eq!(fs::read_to_string(upper.join("etc").join(name)).unwrap(), text);
            assert_eq!(fs::metadata(upper.join("etc").join(name)).unwrap().mode() & 0o7777, 0o644);
        }
    }

    #[test]
    fn an_etc_that_is_a_link_or_missing_is_left_to_the_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (image, upper) = (dir.path().join("image"), dir.path().join("upper"));
        fs::create_dir_all(&image).unwrap();
        fs::create_dir_all(&upper).unwrap();
        assert!(!lay(&upper, std::iter::once(image.as_path()), &plan()).unwrap());
        std::os::unix::fs::symlink("/etc", image.join("etc")).unwrap();
        assert!(!lay(&upper, std::iter::once(image.as_path()), &plan()).unwrap());
        assert!(fs::read_dir(&upper).unwrap().next().is_none());
    }
}
