use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::storage::clear;

/// A volume in a directory, beside which lies something that nobody may reach.
struct Place {
    dir: tempfile::TempDir,
    volume: Arc<Volume>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [files, incoming, outgoing] = ["files", "incoming", "outgoing"].map(|name| {
            fs::create_dir(dir.path().join(name)).unwrap();
            File::open(dir.path().join(name)).unwrap()
        });
        fs::write(dir.path().join("outside"), "not yours").unwrap();
        Self { dir, volume: Arc::new(Volume::new(SharedVolume { files, incoming, outgoing })) }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("files").join(inside)
    }

    fn write(&self, path: &str, text: &str, owner: Owner) -> Result<Entry, FileError> {
        let mut upload = self.volume.begin(&named(path), owner, Writing { parents: true, fresh: false })?;
        upload.write(text.as_bytes())?;
        upload.finish()
    }

    fn read(&self, path: &str) -> Result<String, FileError> {
        let (mut file, length) = self.volume.read(&named(path))?;
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        Ok(text)
    }

    fn names(&self, path: &str, depth: u32) -> Vec<String> {
        self.volume.list(&named(path), depth).unwrap().into_iter().map(|entry| entry.path).collect()
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        if let Some(aside) = self.volume.remove(&named(path))? {
            self.volume.finish_removal(aside).unwrap();
        }
        Ok(())
    }

    fn beside(&self) -> usize {
        ["incoming", "outgoing"].iter().map(|name| fs::read_dir(self.dir.path().join(name)).unwrap().count()).sum()
    }
}

fn named(path: &str) -> Named {
    Named::parse(path).unwrap()
}

fn owner(uid: u32, gid: u32, mode: u32) -> Owner {
    Owner { uid: Some(uid), gid: Some(gid), mode: Some(mode) }
}

#[test]
fn what_is_written_is_read_listed_changed_and_removed() {
    let place = Place::new();
    let written = place.write("/a/b/file", "text", Owner::default()).unwrap();
    assert_eq!((written.kind, written.path.as_str(), written.name.as_str()), ("file", "/a/b/file", "file"));
    assert_eq!((written.size, written.mode, written.uid, written.gid), (4, 0o644, 1000, 1000));
    assert_eq!(place.read("a/b/file").unwrap(), "text");
    let changed = place.volume.update(&named("a/b/file"), owner(7, 8, 0o4640)).unwrap();
    assert_eq!((changed.uid, changed.gid, changed.mode), (7, 8, 0o4640));
    let again = place.write("a/b/file", "longer text", Owner::default()).unwrap();
    assert_eq!((again.size, again.uid, again.gid, again.mode), (11, 7, 8, 0o4640), "an owner stays when nobody says");
    let made = place.volume.make_dir(&named("a/c/d"), owner(1, 2, 0o700), true).unwrap();
    assert_eq!((made.kind, made.uid, made.gid, made.mode), ("directory", 1, 2, 0o700));
    symlink("b/file", place.path("a/link")).unwrap();
    assert_eq!(place.names("/", 1), ["/a"]);
    assert_eq!(place.names("a", 9), ["/a/b", "/a/b/file", "/a/c", "/a/c/d", "/a/link"]);
    let link = place.volume.stat(&named("a/link")).unwrap();
    assert_eq!((link.kind, link.target.as_deref()), ("symlink", Some("b/file")));
    place.write("a/link", "through it", Owner::default()).unwrap();
    assert_eq!(place.read("a/b/file").unwrap(), "through it");
    assert!(fs::symlink_metadata(place.path("a/link")).unwrap().is_symlink());
    place.remove("a/link").unwrap();
    place.remove("/a").unwrap();
    assert!(place.names("/", 9).is_empty() && place.beside() == 0);
    let root = place.volume.update(&named("/"), Owner { mode: Some(0o755), ..Owner::default() }).unwrap();
    assert_eq!((root.path.as_str(), root.mode), ("/", 0o755));
}

#[test]
fn what_can_not_be_done_says_so_by_name() {
    let place = Place::new();
    place.write("file", "text", Owner::default()).unwrap();
    let volume = &place.volume;
    let plain = Owner::default();
    let begin = |path: &str, parents| volume.begin(&named(path), plain, Writing { parents, fresh: false }).map(|_| ());
    let told = |done: Result<(), FileError>| done.unwrap_err();
    let fresh = Writing { fresh: true, ..Writing::default() };
    assert!(
        matches!(told(volume.begin(&named("file"), plain, fresh).map(|_| ())), FileError::Exists(path) if path == "/file")
    );
    // One that came meanwhile is not taken away either.
    let mut late = volume.begin(&named("late"), plain, fresh).unwrap();
    late.write(b"late").unwrap();
    place.write("late", "first", plain).unwrap();
    assert!(matches!(told(late.finish().map(|_| ())), FileError::Exists(_)));
    assert_eq!(place.read("late").unwrap(), "first");
    assert!(matches!(told(place.remove("none")), FileError::NotFound(path) if path == "/none"));
    assert!(matches!(told(place.remove("/")), FileError::Invalid { field: "path", .. }));
    assert!(matches!(told(volume.stat(&named("file/below")).map(|_| ())), FileError::NotFound(_)));
    assert!(matches!(told(volume.list(&named("file"), 1).map(|_| ())), FileError::Invalid { field: "path", .. }));
    assert!(matches!(told(volume.list(&named("none"), 1).map(|_| ())), FileError::NotFound(_)));
    assert!(matches!(told(volume.list(&named("/"), 0).map(|_| ())), FileError::Invalid { field: "depth", .. }));
    assert!(matches!(told(volume.read(&named("/")).map(|_| ())), FileError::Invalid { field: "path", .. }));
    assert!(matches!(told(begin("no/such/dir", false)), FileError::NotFound(_)));
    assert!(matches!(told(begin("/", true)), FileError::Invalid { field: "path", .. }));
    assert!(matches!(told(begin("file/below", true)), FileError::Exists(path) if path == "/file"));
    assert!(matches!(told(volume.make_dir(&named("file"), plain, true).map(|_| ())), FileError::Exists(_)));
    assert!(matches!(told(volume.make_dir(&named("a/b"), plain, false).map(|_| ())), FileError::NotFound(_)));
    volume.make_dir(&named("a"), plain, false).unwrap();
    assert!(matches!(told(volume.make_dir(&named("a"), plain, false).map(|_| ())), FileError::Exists(_)));
    volume.make_dir(&named("a"), plain, true).unwrap();
    assert!(matches!(told(begin("a", false)), FileError::Invalid { field: "path", .. }));
    symlink("nowhere", place.path("link")).unwrap();
    let change = volume.update(&named("link"), Owner { mode: Some(0o600), ..plain });
    assert!(matches!(told(change.map(|_| ())), FileError::Invalid { field: "mode", .. }));
    for wrong in [owner(65_536, 0, 0), owner(0, 65_536, 0), owner(0, 0, 0o10000)] {
        assert!(wrong.check().is_err());
    }
    assert_eq!(place.beside(), 0);
}

#[test]
fn no_link_and_no_special_file_leads_out_of_the_volume() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    for (name, target) in [("up", "../outside"), ("far", outside.to_str().unwrap()), ("dir", "..")] {
        symlink(target, place.path(name)).unwrap();
    }
    for path in ["up", "far", "dir/outside", "../outside"] {
        assert!(matches!(place.read(path), Err(FileError::NotFound(_))), "{path}");
    }
    // Each of these lands inside, where the link leads when the volume is the root.
    place.write("up", "mine", Owner::default()).unwrap();
    assert_eq!(fs::read_to_string(place.path("outside")).unwrap(), "mine");
    place.volume.make_dir(&named("dir/made"), Owner::default(), false).unwrap();
    assert!(place.path("made").is_dir());
    // A link is changed and removed itself.
    place.volume.update(&named("far"), Owner { uid: Some(5), ..Owner::default() }).unwrap();
    place.remove("far").unwrap();
    place.remove("dir").unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not yours");
    assert_ne!(fs::metadata(&outside).unwrap().uid(), 5);
    symlink("round", place.path("round")).unwrap();
    assert!(matches!(place.read("round"), Err(FileError::Invalid { field: "path", .. })));
    assert!(matches!(place.write("round", "", Owner::default()), Err(FileError::Invalid { field: "path", .. })));
    let pipe = std::ffi::CString::new(place.path("pipe").to_str().unwrap()).unwrap();
    // SAFETY: a C string that lives as long as the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o666) }, 0);
    assert!(matches!(place.read("pipe"), Err(FileError::Invalid { field: "path", .. })));
    assert_eq!(place.volume.stat(&named("pipe")).unwrap().kind, "unknown");
}

#[test]
fn an_upload_that_breaks_off_leaves_what_was_there() {
    let place = Place::new();
    place.write("file", "before", Owner::default()).unwrap();
    let mut upload = place.volume.begin(&named("file"), Owner::default(), Writing::default()).unwrap();
    upload.write(b"half").unwrap();
    assert_eq!(place.read("file").unwrap(), "before");
    assert_eq!(place.beside(), 1);
    drop(upload);
    assert_eq!((place.read("file").unwrap().as_str(), place.beside()), ("before", 0));
    let mut left = place.volume.begin(&named("file"), Owner::default(), Writing::default()).unwrap();
    left.write(b"of an agent that died").unwrap();
    let incoming = File::open(place.dir.path().join("incoming")).unwrap();
    clear::names(&incoming).unwrap().into_iter().for_each(|name| clear::tree(&incoming, name).unwrap());
    assert_eq!(place.beside(), 0);
    assert!(left.finish().is_err());
}

#[test]
fn trees_of_any_depth_and_width_are_removed() {
    let place = Place::new();
    let mut dir = File::open(place.path("")).unwrap();
    for level in 0..300 {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        dir = File::from(rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap());
        if level % 50 == 0 {
            for number in 0..20 {
                rustix::fs::mkdirat(&dir, format!("wide-{number}"), Mode::from_raw_mode(0o755)).unwrap();
            }
        }
    }
    fs::set_permissions(place.path("d"), fs::Permissions::from_mode(0o0)).unwrap();
    place.remove("d").unwrap();
    assert!(place.names("/", 1).is_empty() && place.beside() == 0);
}

#[test]
fn a_listing_is_bounded_by_what_its_paths_weigh() {
    let place = Place::new();
    let name = "n".repeat(255);
    let mut dir = File::open(place.path("")).unwrap();
    for _ in 0..90 {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        dir = File::from(rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap());
    }
    let fill = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            drop(rustix::fs::openat(&dir, number.to_string(), flags, Mode::from_raw_mode(0o644)).unwrap());
        }
    };
    // Each of them is shown with all that it lies in: 23 kB.
    fill(0..100);
    assert_eq!(place.names("/", 100).len(), 190);
    fill(100..400);
    let refused = place.volume.list(&named("/"), 100).unwrap_err();
    assert!(
        matches!(&refused, FileError::Invalid { field: "path", problem } if problem.contains("8 MiB")),
        "{refused:?}"
    );
    assert_eq!(place.names("/", 80).len(), 80, "less deep it can be listed");
}
