//! Images are mounted by the kernel and compared with what they were made from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// A tar archive, entry by entry.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: u8, path: &str, link: &str, body: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(if kind == b'5' { b"0000755" } else { b"0000644" });
        header[108..115].copy_from_slice(b"0001750");
        header[116..123].copy_from_slice(b"0001750");
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000007");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, body: &[u8]) -> Self {
        self.entry(b'0', path, "", body)
    }

    fn dir(self, path: &str) -> Self {
        self.entry(b'5', path, "", b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target, b"")
    }
}

fn tree_of(archives: &[Archive]) -> Result<(Tree, Spool), ImageError> {
    let mut spool = Spool::create_in(Path::new("/var/tmp"))?;
    let mut tree = Tree::new(Limits { bytes: 1 << 20, inodes: 1000, depth: 64, memory: 1 << 20 });
    for (layer, archive) in archives.iter().enumerate() {
        apply_tar(&mut tree, &mut spool, &mut Cursor::new(&archive.0), layer as u32 + 1)?;
    }
    Ok((tree, spool))
}

fn content(tree: &Tree, spool: &mut Spool, path: &str) -> Option<Vec<u8>> {
    let Kind::File(content) = &tree.inode(tree.find(path)?).kind else { return None };
    let mut bytes = Vec::new();
    if let Source::Spool(start) = content.source {
        std::io::copy(&mut spool.reader(start, content.size).ok()?, &mut bytes).ok()?;
    }
    Some(bytes)
}

/// Mounts the image while `look` looks at it.
fn mounted<T>(image: &Path, look: impl FnOnce(&Path) -> T) -> T {
    struct Point(tempfile::TempDir);
    impl Drop for Point {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0.path()).status();
        }
    }
    let point = Point(tempfile::tempdir_in("/var/tmp").unwrap());
    let status = Command::new("mount").args(["-t", "erofs", "-o", "ro"]).arg(image).arg(point.0.path()).status();
    assert!(status.unwrap().success(), "the kernel refuses the image");
    look(point.0.path())
}

fn image_of(tree: &Tree, spool: &mut Spool) -> (tempfile::NamedTempFile, Written) {
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let mut opened = File::options().read(true).write(true).open(file.path()).unwrap();
    let written = write(tree, spool, &mut opened).unwrap();
    assert_eq!(fs::metadata(file.path()).unwrap().len(), written.size_bytes);
    (file, written)
}

#[test]
fn the_kernel_shows_exactly_what_was_written() {
    let big: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut archive = Archive::default().dir("etc/").file("etc/hosts", b"127.0.0.1 localhost\n").file("empty", b"");
    archive =
        archive.file("big", &big).file("block", &[7; 4096]).file("tail", &[9; 4096 + 3000]).link("way", "etc/hosts");
    archive = archive.entry(b'1', "twin", "big", b"").dir("many");
    for number in 0..600 {
        archive =
            archive.file(&format!("many/a-rather-long-name-of-a-file-{number:04}"), format!("{number}").as_bytes());
    }
    let (tree, mut spool) = tree_of(&[archive]).unwrap();
    let (image, written) = image_of(&tree, &mut spool);
    mounted(image.path(), |root| {
        assert_eq!(fs::read(root.join("big")).unwrap(), big);
        assert_eq!(fs::read(root.join("etc/hosts")).unwrap(), b"127.0.0.1 localhost\n");
        assert_eq!(fs::read(root.join("way")).unwrap(), b"127.0.0.1 localhost\n");
        assert_eq!(fs::read(root.join("empty")).unwrap(), b"");
        assert_eq!(fs::read(root.join("block")).unwrap(), [7; 4096]);
        assert_eq!(fs::read(root.join("tail")).unwrap(), [9; 4096 + 3000]);
        let big = fs::metadata(root.join("big")).unwrap();
        assert_eq!((big.nlink(), big.uid(), big.gid(), big.mode() & 0o7777, big.mtime()), (2, 1000, 1000, 0o644, 7));
        assert_eq!(fs::metadata(root.join("twin")).unwrap().ino(), big.ino());
        assert_eq!(fs::read_dir(root.join("many")).unwrap().count(), 600);
        for number in [0, 17, 599] {
            let name = format!("many/a-rather-long-name-of-a-file-{number:04}");
            assert_eq!(fs::read_to_string(root.join(name)).unwrap(), number.to_string());
        }
        assert_eq!(fs::metadata(root).unwrap().nlink(), 4);
    });
    assert_eq!(image_of(&tree, &mut spool).1, written, "the same tree is the same image");
}

#[test]
fn whiteouts_remove_what_earlier_archives_brought_and_nothing_else() {
    let first = Archive::default().file("a/old", b"1").file("a/kept", b"2").file("b/x", b"3").file("gone", b"4");
    let second = Archive::default()
        .file("a/.wh.old", b"")
        .file("b/new", b"5")
        .file("b/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .file("fresh", b"6")
        .file(".wh.fresh", b"");
    let (tree, mut spool) = tree_of(&[first, second]).unwrap();
    let mut read = |path| content(&tree, &mut spool, path);
    assert_eq!((read("a/old"), read("b/x"), read("gone")), (None, None, None));
    assert_eq!((read("a/kept"), read("b/new"), read("fresh")), (Some(vec![b'2']), Some(vec![b'5']), Some(vec![b'6'])));
}

#[test]
fn a_late_whiteout_leaves_what_its_own_archive_brought_however_deep() {
    let first = Archive::default()
        .dir("dir/")
        .dir("dir/sub/")
        .file("dir/sub/old", b"1")
        .file("dir/sub/deep/old", b"2")
        .file("dir/gone/x", b"3")
        .file("other/old", b"4");
    let second = Archive::default()
        .dir("dir/")
        .file("dir/sub/new", b"5")
        .file("dir/sub/deep/new", b"6")
        .dir("dir/empty/")
        .file("dir/.wh..wh..opq", b"")
        .dir("other/")
        .file("other/new", b"7")
        .file(".wh.other", b"");
    let (tree, mut spool) = tree_of(&[first, second]).unwrap();
    let mut read = |path| content(&tree, &mut spool, path);
    for gone in ["dir/sub/old", "dir/sub/deep/old", "dir/gone/x", "other/old"] {
        assert_eq!(read(gone), None, "{gone}");
    }
    assert_eq!(read("dir/sub/new"), Some(vec![b'5']));
    assert_eq!(read("dir/sub/deep/new"), Some(vec![b'6']));
    assert_eq!(read("other/new"), Some(vec![b'7']));
    assert!(tree.find("dir/empty").is_some() && tree.find("dir/gone").is_none());
}

#[test]
fn what_an_archive_costs_is_bounded_also_where_nothing_of_it_is_kept() {
    // A directory with a gigabyte behind its header; the archive ends before.
    let mut device = Archive::default().entry(b'3', "dev/x", "", b"");
    device.0[124..135].copy_from_slice(b"07777777777");
    device.0[148..156].fill(b' ');
    let sum: u32 = device.0[..512].iter().map(|byte| u32::from(*byte)).sum();
    device.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut endless = Cursor::new(device.0).chain(std::io::repeat(0));
    let mut spool = Spool::create_in(Path::new("/var/tmp")).unwrap();
    let limits = Limits { bytes: 1 << 20, inodes: 1000, depth: 64, memory: 1 << 20 };
    let mut tree = Tree::new(limits);
    assert!(matches!(apply_tar(&mut tree, &mut spool, &mut endless, 1), Err(ImageError::TooLarge(_))));
    // Each entry goes through links that go through links: few bytes, a thousand steps.
    let mut winding = Archive::default().dir("a").link("l0", &"a/../".repeat(19));
    for number in 1..40 {
        winding = winding.link(&format!("l{number}"), &format!("l{}/{}", number - 1, "a/../".repeat(15)));
    }
    for number in 0..900 {
        winding = winding.file(&format!("l30/{number}"), b"");
    }
    assert!(matches!(tree_of(&[winding]), Err(ImageError::TooLarge(_))));
    // Names and links are in memory.
    let target = "t".repeat(90);
    let many = (0..990)
        .fold(Archive::default(), |archive, number| archive.link(&format!("{number:04}{}", "n".repeat(90)), &target));
    let (tree, _) = tree_of(&[many]).unwrap();
    assert!(tree.memory > 990 * 180 && tree.memory < 1 << 20, "{}", tree.memory);
    let mut tree = Tree::new(Limits { memory: 100 << 10, ..limits });
    let again = (0..990).fold(Archive::default(), |archive, number| archive.link(&format!("{number}"), &target));
    let applied = apply_tar(&mut tree, &mut spool, &mut Cursor::new(&again.0), 1);
    assert!(matches!(applied, Err(ImageError::TooLarge(_))));
}

#[test]
fn a_directory_of_hostile_files_takes_no_memory_to_speak_of() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("f"), b"x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for number in 0..3 {
        let name = format!("user.{number}");
        // Some file systems have no room for so much themselves.
        let set = rustix::fs::setxattr(dir.path().join("f"), name.as_str(), &[b'x'; 2000], flags);
        if set.is_err() {
            return;
        }
    }
    assert!(matches!(read_directory(dir.path(), Limits::default()), Err(ImageError::TooLarge(_))));
    fs::remove_file(dir.path().join("f")).unwrap();
    for number in 0..100 {
        std::os::unix::fs::symlink("t".repeat(4000), dir.path().join(format!("{number}"))).unwrap();
    }
    read_directory(dir.path(), Limits::default()).unwrap();
    let small = Limits { memory: 300_000, ..Limits::default() };
    assert!(matches!(read_directory(dir.path(), small), Err(ImageError::TooLarge(_))));
}

#[test]
fn nothing_leads_out_of_an_image() {
    for path in ["../etc/passwd", "a/../../x", "/.."] {
        assert!(matches!(tree_of(&[Archive::default().file(path, b"x")]), Err(ImageError::Archive(_))), "{path}");
    }
    assert!(tree_of(&[Archive::default().entry(b'1', "x", "../../etc/shadow", b"")]).is_err());
    assert!(tree_of(&[Archive::default().entry(b'1', "x", "not-there", b"")]).is_err());
    // A link that points above the root points at the root, and what goes through it stays inside.
    let archive = Archive::default().link("out", "../../../..").file("out/etc/passwd", b"mine").link("loop", "loop");
    let (tree, mut spool) = tree_of(&[archive]).unwrap();
    assert_eq!(content(&tree, &mut spool, "etc/passwd"), Some(b"mine".to_vec()));
    assert_eq!(tree.find("loop"), None);
    // Absolute names are names inside.
    let (tree, _) = tree_of(&[Archive::default().file("/abs", b"x")]).unwrap();
    assert!(tree.find("abs").is_some());
}

#[test]
fn devices_are_left_out_and_bounds_hold() {
    let (tree, _) =
        tree_of(&[Archive::default().entry(b'3', "dev/sda", "", b"").entry(b'4', "dev/sdb", "", b"")]).unwrap();
    assert!(tree.find("dev/sda").is_none() && tree.find("dev/sdb").is_none());
    let large = Archive::default().file("large", &vec![1; (1 << 20) + 1]);
    assert!(matches!(tree_of(&[large]), Err(ImageError::TooLarge(_))));
    let many = (0..1001).fold(Archive::default(), |archive, number| archive.file(&format!("f{number}"), b""));
    assert!(matches!(tree_of(&[many]), Err(ImageError::TooLarge(_))));
    let deep = Archive::default().file(&"d/".repeat(45), b"").file(&("d/".repeat(49) + "x"), b"");
    let (mut tree, mut spool) = tree_of(&[deep]).unwrap();
    tree.limits.depth = 10;
    let deeper = Archive::default().file("a/b/c/d/e/f/g/h/i/j/k/l", b"");
    assert!(apply_tar(&mut tree, &mut spool, &mut Cursor::new(&deeper.0), 2).is_err());
}

#[test]
fn a_directory_on_disk_is_read_with_its_whiteouts_and_attributes() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), b"hello").unwrap();
    fs::hard_link(dir.path().join("d/f"), dir.path().join("g")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", dir.path().join("s")).unwrap();
    let mode = rustix::fs::Mode::empty();
    let device = rustix::fs::makedev(0, 0);
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("w"), rustix::fs::FileType::CharacterDevice, mode, device)
        .unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.path().join("d"), "user.overlay.opaque", b"y", flags).unwrap();
    rustix::fs::setxattr(dir.path().join("d"), "user.overlay.origin", b"x", flags).unwrap();
    let tree = read_directory(dir.path(), Limits::default()).unwrap();
    assert!(tree.inode(tree.find("w").unwrap()).is_whiteout());
    let expected = BTreeMap::from([(OPAQUE.to_vec(), b"y".to_vec())]);
    assert_eq!(tree.inode(tree.find("d").unwrap()).meta.xattrs, expected);
    let (image, _) = image_of(&tree, &mut Spool::create_in(Path::new("/var/tmp")).unwrap());
    mounted(image.path(), |root| {
        assert_eq!(fs::read(root.join("g")).unwrap(), b"hello");
        assert_eq!(fs::read_link(root.join("s")).unwrap(), Path::new("/etc/shadow"));
        let whiteout = fs::symlink_metadata(root.join("w")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        let mut value = [0_u8; 8];
        assert_eq!(rustix::fs::getxattr(root.join("d"), "user.overlay.opaque", &mut value), Ok(1));
    });
}

/// What an overlay of these layers shows, as plain paths: the model that merging is compared with.
fn shown(layers: &[&Tree]) -> Vec<String> {
    fn visit(trees: &[(&Tree, usize)], prefix: &str, into: &mut Vec<String>) {
        // Topmost first; a layer after an opaque one doesn't count.
        let mut names: BTreeMap<Vec<u8>, Vec<(&Tree, usize)>> = BTreeMap::new();
        for (tree, index) in trees {
            for (name, child) in tree.entries(*index).into_iter().flatten() {
                names.entry(name.clone()).or_default().push((tree, *child));
            }
            if tree.inode(*index).is_opaque() {
                break;
            }
        }
        for (name, children) in names {
            let (tree, index) = children[0];
            if tree.inode(index).is_whiteout() {
                continue;
            }
            let path = format!("{prefix}/{}", String::from_utf8_lossy(&name));
            into.push(path.clone());
            if tree.inode(index).is_directory() {
                let below = children.into_iter().take_while(|(tree, index)| tree.inode(*index).is_directory());
                visit(&below.collect::<Vec<_>>(), &path, into);
            }
        }
    }
    let mut paths = Vec::new();
    visit(&layers.iter().map(|tree| (*tree, 0)).collect::<Vec<_>>(), "", &mut paths);
    paths
}

/// What one layer does to a path: a file, a directory, a whiteout, an opaque directory.
fn layer() -> impl Strategy<Value = Tree> {
    prop::collection::vec((prop::collection::vec(0_u8..3, 1..4), 0_u8..4), 0..8).prop_map(|steps| {
        let mut tree = Tree::new(Limits::default());
        for (path, what) in steps {
            let mut here = 0;
            let mut alive = true;
            for part in &path[..path.len() - 1] {
                let name = [b'a' + part];
                match tree.entries(here).and_then(|entries| entries.get(name.as_slice())).copied() {
                    Some(next) if tree.inode(next).is_directory() => here = next,
                    Some(_) => alive = false,
                    None => {
                        let next = tree.add(tree::plain_directory()).unwrap();
                        tree.link(here, &name, next).unwrap();
                        here = next;
                    }
                }
                if !alive {
                    break;
                }
            }
            let name = [b'a' + path[path.len() - 1]];
            if !alive || tree.entries(here).unwrap().contains_key(name.as_slice()) {
                continue;
            }
            let mut inode = match what {
                0 => Inode::new(Kind::File(Content { source: Source::Empty, size: 0 }), Meta::default()),
                1 => Inode::new(Kind::Character(0, 0), Meta::default()),
                _ => tree::plain_directory(),
            };
            if what == 3 {
                inode.meta.xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
            }
            let index = tree.add(inode).unwrap();
            tree.link(here, &name, index).unwrap();
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn merged_layers_show_what_the_stack_of_them_shows(base in layer(), lower in layer(), upper in layer()) {
        let mut merged = lower.clone();
        merged.overlay(upper.clone()).unwrap();
        prop_assert_eq!(shown(&[&merged, &base]), shown(&[&upper, &lower, &base]));
    }

    #[test]
    fn any_bytes_are_an_archive_or_an_error(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = tree_of(&[Archive(noise)]);
    }

    #[test]
    fn a_damaged_archive_never_panics(at in 0_usize..3000, byte: u8, cut in 0_usize..4000) {
        let mut archive = Archive::default().dir("d").file("d/f", &[1; 700]).link("l", "d/f").entry(b'x', "p", "", b"18 path=some/name\n");
        archive = archive.file("short", b"body");
        archive.0.truncate(cut.max(1));
        if let Some(target) = archive.0.get_mut(at) {
            *target = byte;
        }
        if let Ok((tree, mut spool)) = tree_of(&[archive]) {
            let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
            write(&tree, &mut spool, &mut file).unwrap();
        }
    }
}

/// An image in a file, and which of its blocks were read.
struct Watched(File, Vec<bool>);

impl Pieces for Watched {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        for block in offset / 4096..(offset + into.len() as u64).div_ceil(4096) {
            self.1[usize::try_from(block).unwrap()] = true;
        }
        std::os::unix::fs::FileExt::read_exact_at(&self.0, into, offset)
    }

    fn all_from(&mut self, _: u64) {}
}

/// Names, kinds and attributes of all that is below, and what is in files of less than a block.
fn seen(root: &Path) -> BTreeMap<std::path::PathBuf, String> {
    let (mut all, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (mut value, mut content) = ([0_u8; 8], Vec::new());
            let attribute = rustix::fs::lgetxattr(&path, "user.overlay.opaque", &mut value).is_ok();
            if meta.is_file() && meta.len() < 1000 {
                content = fs::read(&path).unwrap();
            }
            if meta.is_symlink() {
                content = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
            }
            if meta.is_dir() {
                left.push(path.clone());
            }
            let what = format!("{} {} {attribute} {content:?}", meta.mode(), meta.len());
            all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    all
}

#[test]
fn all_that_the_kernel_reads_besides_contents_is_metadata() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    for number in 0..700 {
        fs::create_dir_all(dir.path().join("many/below")).unwrap();
        fs::write(dir.path().join(format!("many/a-rather-long-name-of-a-file-{number:04}")), [7; 40]).unwrap();
        fs::write(dir.path().join(format!("many/below/{number}")), vec![number as u8; number * 40]).unwrap();
    }
    fs::write(dir.path().join("big"), vec![3; 5 << 20]).unwrap();
    std::os::unix::fs::symlink("big", dir.path().join("link")).unwrap();
    rustix::fs::setxattr(dir.path().join("many"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
        .unwrap();
    let tree = read_directory(dir.path(), Limits::default()).unwrap();
    let (ours, _) = image_of(&tree, &mut Spool::create_in(Path::new("/var/tmp")).unwrap());
    let theirs = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let made =
        Command::new("mkfs.erofs").args(["--quiet", "-Enoinline_data"]).arg(theirs.path()).arg(dir.path()).status();
    assert!(made.unwrap().success());
    for image in [ours.path(), theirs.path()] {
        let whole = mounted(image, seen);
        assert_eq!(whole.len(), 1404);
        let size = fs::metadata(image).unwrap().len();
        let mut watched = Watched(File::open(image).unwrap(), vec![false; size as usize / 4096]);
        assert!(read_metadata(&mut watched, size).unwrap());
        let read = watched.1.iter().filter(|read| **read).count();
        assert!(read * 4 < watched.1.len(), "{read} blocks of {}", watched.1.len());
        let mut bytes = fs::read(image).unwrap();
        for (block, _) in watched.1.iter().enumerate().filter(|(_, read)| !**read) {
            bytes[block * 4096..(block + 1) * 4096].fill(0xee);
        }
        let rest = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        fs::write(rest.path(), bytes).unwrap();
        let without = mounted(rest.path(), seen);
        // What stands in a block of its own is a content.
        let differ = whole.iter().filter(|(path, what)| without.get(*path) != Some(what)).count();
        assert!(whole.keys().eq(without.keys()) && (image == theirs.path() || differ == 0), "{differ} differ");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_images_metadata_ends_and_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let archive = Archive::default().dir("d").file("d/f", &[1; 700]).link("l", "d/f").file("e/g", &[2; 9000]);
        let (tree, mut spool) = tree_of(&[archive]).unwrap();
        let (image, written) = image_of(&tree, &mut spool);
        let mut bytes = fs::read(image.path()).unwrap();
        for (at, value) in changes {
            // Where the super block or the inodes are.
            let at = at.index(bytes.len() / 2);
            let at = if at % 2 == 0 { 1024 + at % 128 } else { bytes.len() - 1 - at };
            bytes[at] = value;
        }
        fs::write(image.path(), &bytes).unwrap();
        let blocks = usize::try_from(written.size_bytes / 4096).unwrap();
        let _either = read_metadata(&mut Watched(File::open(image.path()).unwrap(), vec![false; blocks]), written.size_bytes);
    }
}
