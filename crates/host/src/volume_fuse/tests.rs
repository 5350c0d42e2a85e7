mod removed;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Mutex;

use atoll_model::VolumeId;
use proptest::prelude::*;

use super::abi::{OUT_HEADER, ROOT, set};
use super::*;
use crate::storage::{Pool, PoolOptions};

const SIZE: u64 = 32 << 20;

/// A volume in a pool of its own. Modes are made by threads that are fit for it, so all work is done on one of those.
struct Place {
    dir: tempfile::TempDir,
    pool: Option<Pool>,
    id: VolumeId,
    sandbox: SandboxId,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-fuse-").tempdir_in("/var/tmp").unwrap();
        let options = PoolOptions { size_limit: Some(1 << 30), reserve: 1 << 20, ..PoolOptions::default() };
        let pool = Pool::open(dir.path(), &options).unwrap();
        Self { dir, pool: Some(pool), id: VolumeId::new(), sandbox: SandboxId::new() }
    }

    fn files(&self) -> PathBuf {
        self.pool.as_ref().unwrap().shared_volume(&self.id, SIZE).unwrap()
    }

    fn server(&self, read_only: bool) -> Server {
        Server::open(&self.files(), &self.sandbox, read_only, SIZE).unwrap()
    }

    fn beside(&self) -> usize {
        fs::read_dir(self.files().with_file_name(UNLINKED)).unwrap().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let _deleted = pool.delete_shared_volume(&self.id);
            drop(pool.close());
        }
        let _gone = rustix::mount::unmount(self.dir.path().join("pool"), rustix::mount::UnmountFlags::DETACH);
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            begin_thread().unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A request's bytes.
struct Ask {
    opcode: u32,
    node: u64,
    uid: u32,
    gid: u32,
    again: bool,
    body: Vec<u8>,
}

fn ask(opcode: u32, node: u64) -> Ask {
    Ask { opcode, node, uid: 0, gid: 0, again: false, body: Vec::new() }
}

impl Ask {
    fn u32(mut self, number: u32) -> Self {
        self.body.extend(number.to_ne_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.body.extend(number.to_ne_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.body.extend(text.as_bytes());
        self.body.push(0);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.body.extend(data);
        self
    }

    fn by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    fn again(self) -> Self {
        Self { again: true, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((IN_HEADER as u32 + self.body.len() as u32).to_ne_bytes());
        bytes.extend(self.opcode.to_ne_bytes());
        bytes.extend((8 | if self.again { AGAIN } else { 0 }).to_ne_bytes());
        bytes.extend(self.node.to_ne_bytes());
        bytes.extend(self.uid.to_ne_bytes());
        bytes.extend(self.gid.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(&self.body);
        bytes
    }

    fn of(&self, server: &Server) -> Result<Vec<u8>, Errno> {
        let mut answer = Vec::new();
        server.answer(&self.bytes(), &mut answer).unwrap();
        assert_eq!(answer[..4], (answer.len() as u32).to_ne_bytes());
        assert_eq!(answer[8..16], 8_u64.to_ne_bytes(), "the mark is not the kernel's");
        match i32::from_ne_bytes(answer[4..8].try_into().unwrap()) {
            0 => Ok(answer.split_off(OUT_HEADER)),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    fn node(&self, server: &Server) -> u64 {
        u64_at(&self.of(server).unwrap(), 0)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn create(node: u64, name: &str, flags: i32) -> Ask {
    ask(op::CREATE, node).u32(flags.cast_unsigned()).u32(0o100_640).u64(0).text(name)
}

fn write(node: u64, offset: u64, flags: i32, data: &[u8]) -> Ask {
    let head = ask(op::WRITE, node).u64(0).u64(offset).u32(data.len() as u32).u32(0).u64(0);
    head.u32(flags.cast_unsigned()).u32(0).data(data)
}

fn read(node: u64, offset: u64, size: u32) -> Ask {
    ask(op::READ, node).u64(0).u64(offset).u32(size).u32(0).u64(0).u64(0)
}

fn rename(from: u64, old: &str, to: u64, new: &str) -> Ask {
    ask(op::RENAME, from).u64(to).text(old).text(new)
}

#[test]
fn files_have_the_owners_and_modes_of_who_made_them() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let dir = ask(op::MKDIR, ROOT).u32(0o775).u32(0).text("dir").by(1000, 50).node(&server);
        fs::set_permissions(place.files().join("dir"), fs::Permissions::from_mode(0o2775)).unwrap();
        let file = create(dir, "file", 0).by(1001, 51).node(&server);
        ask(op::SYMLINK, dir).text("link").text("../../etc/passwd").by(7, 8).of(&server).unwrap();
        ask(op::MKNOD, dir).u32(0o010_600).u32(0).u64(0).text("pipe").by(9, 9).of(&server).unwrap();
        let seen = |name: &str| {
            let it = fs::symlink_metadata(place.files().join("dir").join(name)).unwrap();
            (it.mode(), it.uid(), it.gid())
        };
        assert_eq!(seen("."), (0o042_775, 1000, 50));
        // The directory passes on its group.
        assert_eq!(seen("file"), (0o100_640, 1001, 50));
        assert_eq!(seen("link"), (0o120_777, 7, 50));
        assert_eq!(seen("pipe"), (0o010_600, 9, 50));
        // This thread is itself again.
        create(ROOT, "mine", 0).of(&server).unwrap();
        assert_eq!(fs::metadata(place.files().join("mine")).unwrap().uid(), 0);
        let target = ask(op::LOOKUP, dir).text("link").node(&server);
        assert_eq!(ask(op::READLINK, target).of(&server).unwrap(), b"../../etc/passwd");
        assert_eq!(read(target, 0, 100).of(&server), Err(Errno::LOOP), "nothing is followed");
        assert_eq!(create(ROOT, "far", 0).by(65_536, 0).of(&server), Err(Errno::OVERFLOW));
        let chown = |uid: u32| {
            let head = ask(op::SETATTR, file).u32(set::UID | set::MODE).u32(0).u64(0).u64(0).u64(0);
            head.u64(0).u64(0).u64(0).u64(0).u32(0).u32(0o4711).u32(0).u32(uid).u32(0).u32(0).of(&server)
        };
        chown(42).unwrap();
        assert_eq!(seen("file"), (0o104_711, 42, 50));
        assert_eq!(chown(65_536), Err(Errno::INVAL));
        for device in [0o020_600, 0o060_600] {
            let made = ask(op::MKNOD, dir).u32(device).u32(0x103).u64(0).text("device").of(&server);
            assert_eq!(made, Err(Errno::PERM));
        }
    });
}

#[test]
fn what_is_open_outlives_its_name_and_every_server_knows_it_by_its_number() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let [one, other] = ["one", "other"].map(|name| create(ROOT, name, 0).node(&server));
        write(one, 0, 0, b"first").of(&server).unwrap();
        write(one, 5, libc::O_APPEND, b"+more").of(&server).unwrap();
        drop(server);
        let server = place.server(false);
        assert_eq!(read(one, 2, 100).of(&server).unwrap(), b"rst+more");
        ask(op::UNLINK, ROOT).text("one").of(&server).unwrap();
        let replacing = create(ROOT, "new", 0).node(&server);
        rename(ROOT, "new", ROOT, "other").of(&server).unwrap();
        assert_eq!(ask(op::LOOKUP, ROOT).text("other").node(&server), replacing);
        write(other, 0, 0, b"replaced").of(&server).unwrap();
        assert_eq!(read(one, 0, 5).of(&server).unwrap(), b"first");
        assert_eq!(read(other, 0, 9).of(&server).unwrap(), b"replaced");
        assert_eq!(place.beside(), 2);
        // The kernel has forgotten them: one by one, or many at once.
        server.forget(&ask(op::FORGET, one).u64(1).bytes());
        server.forget(&ask(op::BATCH_FORGET, 0).u32(2).u32(0).u64(other).u64(1).u64(replacing).u64(9).bytes());
        assert_eq!(place.beside(), 0);
        assert_eq!(read(one, 0, 5).of(&server), Err(Errno::STALE));
        assert_eq!(read(replacing, 0, 5).of(&server).unwrap(), b"");
        // A mount that begins has nothing open; nor has a sandbox that is gone.
        for last in [true, false] {
            let file = create(ROOT, "again", 0).node(&server);
            ask(op::UNLINK, ROOT).text("again").of(&server).unwrap();
            assert_eq!(place.beside(), 1);
            if last {
                ask(op::INIT, 0).u32(7).u32(36).u32(1 << 20).u32(u32::MAX).of(&server).unwrap();
            } else {
                place.pool.as_ref().unwrap().clear_unlinked(&place.id, &SandboxId::new()).unwrap();
                assert_eq!(place.beside(), 1, "another's");
                place.pool.as_ref().unwrap().clear_unlinked(&place.id, &place.sandbox).unwrap();
            }
            assert_eq!(place.beside(), 0);
            assert_eq!(read(file, 0, 5).of(&server), Err(Errno::STALE));
        }
    });
}

#[test]
fn what_was_done_before_an_answer_was_lost_is_not_an_error_when_it_is_asked_for_again() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let log = create(ROOT, "log", 0).by(5, 5).node(&server);
        write(log, 0, libc::O_APPEND, b"a\n").of(&server).unwrap();
        let twice = |ask: Ask| {
            let first = ask.of(&server).unwrap();
            let second = ask.again().of(&server).unwrap();
            assert_eq!(first.get(..8), second.get(..8), "the same node");
        };
        twice(ask(op::MKDIR, ROOT).u32(0o755).u32(0).text("dir").by(5, 5));
        twice(create(ROOT, "new", libc::O_EXCL).by(5, 5));
        twice(ask(op::SYMLINK, ROOT).text("link").text("log").by(5, 5));
        twice(ask(op::LINK, ROOT).u64(log).text("linked"));
        twice(rename(ROOT, "linked", ROOT, "renamed"));
        twice(ask(op::UNLINK, ROOT).text("renamed"));
        twice(ask(op::RMDIR, ROOT).text("dir"));
        twice(write(log, 2, libc::O_APPEND, b"a\n"));
        assert_eq!(read(log, 0, 100).of(&server).unwrap(), b"a\na\n");
        // Others have appended meanwhile; and what never was done is done now.
        write(log, 4, libc::O_APPEND, b"b\n").of(&server).unwrap();
        write(log, 4, libc::O_APPEND, b"c\n").of(&server).unwrap();
        write(log, 4, libc::O_APPEND, b"c\n").again().of(&server).unwrap();
        write(log, 8, libc::O_APPEND, b"a\n").again().of(&server).unwrap();
        assert_eq!(read(log, 0, 100).of(&server).unwrap(), b"a\na\nb\nc\na\n");
        // Without the mark, or as somebody else's work, it is one.
        assert_eq!(ask(op::UNLINK, ROOT).text("renamed").of(&server), Err(Errno::NOENT));
        assert_eq!(create(ROOT, "new", libc::O_EXCL).by(5, 5).of(&server), Err(Errno::EXIST));
        assert_eq!(create(ROOT, "new", libc::O_EXCL).by(6, 5).again().of(&server), Err(Errno::EXIST));
        assert_eq!(create(ROOT, "new", 0).by(6, 5).again().of(&server), Err(Errno::STALE));
    });
}

#[test]
fn directories_are_listed_in_pieces_and_names_lead_nowhere_else() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let dir = ask(op::MKDIR, ROOT).u32(0o755).u32(0).text("dir").node(&server);
        for number in 0..1000 {
            fs::write(place.files().join(format!("dir/file-{number}")), "").unwrap();
        }
        for (opcode, head) in [(op::READDIR, 0), (op::READDIRPLUS, 128)] {
            let (mut names, mut place) = (BTreeMap::new(), 0);
            loop {
                let piece = ask(opcode, dir).u64(0).u64(place).u32(4096).u32(0).u64(0).u64(0).of(&server).unwrap();
                if piece.is_empty() {
                    break;
                }
                assert!(piece.len() <= 4096);
                let mut rest = &piece[..];
                while !rest.is_empty() {
                    let (node, entry) = (if head > 0 { u64_at(rest, 0) } else { 0 }, &rest[head..]);
                    place = u64_at(entry, 8);
                    let length = u32::from_ne_bytes(entry[16..20].try_into().unwrap()) as usize;
                    let name = String::from_utf8(entry[24..24 + length].to_vec()).unwrap();
                    assert!(names.insert(name, node).is_none());
                    rest = &rest[head + (24 + length).next_multiple_of(8)..];
                }
            }
            assert_eq!(names.len(), 1002);
            for (name, node) in names.iter().filter(|(name, _)| head > 0 && name.starts_with("file")).take(5) {
                assert_eq!(ask(op::LOOKUP, dir).text(name).node(&server), *node);
            }
        }
        for name in ["..", ".", "", "a/b", "/etc"] {
            assert_eq!(ask(op::LOOKUP, dir).text(name).of(&server), Err(Errno::INVAL), "{name}");
        }
        assert_eq!(ask(op::LOOKUP, ROOT).data(&[b'x'; 10]).of(&server), Err(Errno::INVAL), "it has no end");
        assert_eq!(ask(op::LOOKUP, dir).text(&"x".repeat(256)).of(&server), Err(Errno::NAMETOOLONG));
    });
}

#[test]
fn a_volume_is_as_large_as_it_is_and_read_only_where_it_is() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let file = create(ROOT, "big", 0).node(&server);
        let piece = vec![7; MOST_DATA];
        let full =
            (0..).map(|number| write(file, number * MOST_DATA as u64, 0, &piece).of(&server)).find_map(Result::err);
        assert_eq!(full, Some(Errno::DQUOT));
        let told = ask(op::STATFS, ROOT).of(&server).unwrap();
        assert_eq!(u64_at(&told, 0) * 4096, SIZE);
        assert!(u64_at(&told, 16) * 4096 < SIZE / 4, "{}", u64_at(&told, 16));
        ask(op::UNLINK, ROOT).text("big").of(&server).unwrap();
        server.forget(&ask(op::FORGET, file).u64(1).bytes());
        create(ROOT, "small", 0).of(&server).unwrap();

        let server = place.server(true);
        let small = ask(op::LOOKUP, ROOT).text("small").node(&server);
        for refused in [
            create(ROOT, "x", 0),
            write(small, 0, 0, b"x"),
            ask(op::UNLINK, ROOT).text("small"),
            ask(op::OPEN, small).u32(libc::O_RDWR.cast_unsigned()).u32(0),
            rename(ROOT, "small", ROOT, "y"),
        ] {
            assert_eq!(refused.of(&server), Err(Errno::ROFS), "{}", refused.opcode);
        }
        assert_eq!(read(small, 0, 1).of(&server).unwrap(), b"");
    });
}

#[test]
fn attributes_of_users_are_kept_and_no_others() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let file = create(ROOT, "file", 0).node(&server);
        let set = |name: &str| ask(op::SETXATTR, file).u32(5).u32(0).text(name).data(b"value").of(&server);
        set("user.note").unwrap();
        for name in ["security.capability", "trusted.overlay.opaque", "system.posix_acl_access"] {
            assert_eq!(set(name), Err(Errno::NOTSUP));
        }
        let get = |size: u32| ask(op::GETXATTR, file).u32(size).u32(0).text("user.note").of(&server);
        assert_eq!(get(100).unwrap(), b"value");
        assert_eq!(get(0).unwrap(), [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(get(4), Err(Errno::RANGE));
        assert_eq!(ask(op::LISTXATTR, file).u32(100).u32(0).of(&server).unwrap(), b"user.note\0");
        ask(op::REMOVEXATTR, file).text("user.note").of(&server).unwrap();
        assert_eq!(get(100), Err(Errno::NODATA));
    });
}

/// Opcodes that there are, mostly; nodes that there are or that somebody might try; bodies that begin as they should.
fn hostile() -> impl Strategy<Value = (u32, u8, u32, bool, Vec<u8>)> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            b"file\0".to_vec(),
            b"dir\0".to_vec(),
            b"link\0".to_vec(),
            b"..\0".to_vec(),
            b"../outside\0".to_vec(),
            b"/etc/passwd\0".to_vec(),
            b"user.x\0".to_vec(),
            0_u64.to_ne_bytes().to_vec(),
            1_u64.to_ne_bytes().to_vec(),
            u64::MAX.to_ne_bytes().to_vec(),
            0o777_u32.to_ne_bytes().to_vec(),
            4096_u32.to_ne_bytes().to_vec(),
        ]),
        proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let body = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    (0_u32..54, any::<u8>(), prop_oneof![0_u32..3, any::<u32>()], any::<bool>(), body)
}

#[test]
fn nothing_that_a_guest_can_say_reaches_beyond_the_volume_or_breaks_the_server() {
    let place = Place::new();
    let other = VolumeId::new();
    let pool = place.pool.as_ref().unwrap();
    let outside = pool.shared_volume(&other, SIZE).unwrap();
    fs::write(outside.join("file"), "not yours").unwrap();
    fs::write(place.dir.path().join("outside"), "not yours").unwrap();
    let files = place.files();
    let beside = files.parent().unwrap().to_owned();
    let dirs = pool.open_shared_volume(&place.id, SIZE).unwrap();
    fs::write(files.join("file"), "mine").unwrap();
    fs::create_dir(files.join("dir")).unwrap();
    symlink("../../..", files.join("link")).unwrap();
    let state = || {
        let mut seen = Vec::new();
        for path in
            [&beside, &outside, &beside.join("incoming"), &beside.join("outgoing"), &place.dir.path().to_owned()]
        {
            let it = fs::metadata(path).unwrap();
            let names: Vec<_> = fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name()).collect();
            seen.push((it.permissions().mode(), it.uid(), names));
        }
        seen
    };
    let server = place.server(false);
    drop(dirs);
    let before = state();
    // All numbers of this volume's inodes that somebody could guess, and of others.
    let mut nodes = vec![0, ROOT, u64::MAX, 256 << 32 | 1];
    let dir = fs::metadata(&files).unwrap().ino();
    for ino in [256, 257, 258, 259, 260, 261, 262, dir] {
        nodes.extend((0..40).map(|generation| ino << 32 | generation));
    }
    let known = Mutex::new(nodes);
    on_a_thread(|| {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4000));
        let run = runner.run(&hostile(), |(opcode, which, id, again, body)| {
            let node = {
                let nodes = known.lock().unwrap();
                // What the server has named is tried often.
                let from = if which % 2 == 0 { nodes.len().saturating_sub(32) } else { 0 };
                nodes[from + usize::from(which) * 7 % (nodes.len() - from)]
            };
            let asked = Ask { opcode, node, uid: id, gid: id, again, body };
            let bytes = asked.bytes();
            let mut answer = Vec::new();
            if Server::is_forgetting(&bytes) {
                server.forget(&bytes);
                return Ok(());
            }
            server.answer(&bytes, &mut answer).unwrap();
            prop_assert!(answer.len() >= OUT_HEADER && answer.len() <= atoll_rpc::volumes::MOST_MESSAGE);
            if answer.len() == OUT_HEADER + 128 {
                known.lock().unwrap().push(u64_at(&answer, OUT_HEADER));
            }
            let cut = usize::from(which) % bytes.len();
            prop_assert!(server.answer(&bytes[..cut], &mut answer).is_err(), "a request that is cut short");
            Ok(())
        });
        run.unwrap();
        assert_eq!(state(), before);
        for file in [outside.join("file"), place.dir.path().join("outside")] {
            assert_eq!(fs::read_to_string(file).unwrap(), "not yours");
        }
        assert!(rustix::thread::capabilities(None).unwrap().effective.bits().count_ones() > 30, "it is itself again");
    });
    drop(server);
    pool.delete_shared_volume(&other).unwrap();
}
