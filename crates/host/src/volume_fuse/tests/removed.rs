//! What is removed, made, opened and written while others do the same.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, inotify, renameat_with};

use super::*;
use crate::storage::clear_unlinked;
use crate::volume_fuse::abi::WRITE_KILL_SUIDGID;

fn links_in(attributes: &[u8]) -> u32 {
    u32::from_ne_bytes(attributes[80..84].try_into().unwrap())
}

fn links(server: &Server, node: u64) -> u32 {
    links_in(&ask(op::GETATTR, node).u32(0).u32(0).u64(0).of(server).unwrap())
}

fn setattr(node: u64, valid: u32, size: u64) -> Ask {
    ask(op::SETATTR, node).u32(valid).u32(0).u64(0).u64(size).data(&[0; 64])
}

#[test]
fn directories_of_the_hosts_are_hidden_whoever_uses_them_first() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let file = create(ROOT, "file", 0).node(&server);
        let top = place.files().parent().unwrap().to_owned();
        place.pool.as_ref().unwrap().open_shared_volume(&place.id, SIZE).unwrap();
        let newest = (file as u32) + 100;
        let found = |path: PathBuf| {
            let inode = fs::metadata(path).unwrap().ino();
            (1..newest).any(|generation| {
                ask(op::GETATTR, inode << 32 | u64::from(generation)).u32(0).u32(0).u64(0).of(&server).is_ok()
            })
        };
        assert!(found(place.files().join("file")), "all generations were tried");
        for own in ["incoming", "outgoing", "unlinked", "."] {
            assert!(!found(top.join(own)), "{own}");
        }
    });
}

#[test]
fn a_directory_that_took_a_files_place_is_never_what_is_removed() {
    let place = Place::new();
    let files = place.files();
    let (file, dir) = (files.join("file"), files.join("dir"));
    let over = AtomicBool::new(false);
    on_a_thread(|| {
        let server = place.server(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _there = fs::write(&file, "x");
                    let _there = fs::create_dir(&dir);
                    for _ in 0..2 {
                        let _removed = renameat_with(CWD, &file, CWD, &dir, RenameFlags::EXCHANGE);
                    }
                }
            });
            let mut said = BTreeMap::new();
            for _ in 0..3000 {
                let removed = ask(op::UNLINK, ROOT).text("file").of(&server).map(drop);
                *said.entry(removed.map_err(Errno::raw_os_error)).or_insert(0) += 1;
            }
            over.store(true, Ordering::Relaxed);
            let known = [Ok(()), Err(libc::ENOENT), Err(libc::EISDIR)];
            assert!(said.keys().all(|it| known.contains(it)) && said.contains_key(&Ok(())), "{said:?}");
        });
        let unlinked = files.with_file_name(UNLINKED);
        assert!(fs::read_dir(&unlinked).unwrap().all(|entry| entry.unwrap().file_type().unwrap().is_file()));
        ask(op::INIT, 0).u32(7).u32(36).u32(1 << 20).u32(u32::MAX).of(&server).unwrap();
        assert_eq!(place.beside(), 0);
        // Whatever an earlier agent has left there.
        let left = |name: &str| unlinked.join(format!("{}.{name}", place.sandbox));
        fs::create_dir_all(left("tree").join("a/b")).unwrap();
        fs::write(left("tree").join("a/file"), "x").unwrap();
        fs::write(left("0000000000000001"), "x").unwrap();
        fs::write(unlinked.join("another.1"), "x").unwrap();
        clear_unlinked(&File::open(&unlinked).unwrap(), &place.sandbox).unwrap();
        assert_eq!(place.beside(), 1);
    });
}

#[test]
fn a_file_that_is_there_already_is_left_to_who_knows_its_rights() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        fs::write(place.files().join("secret"), "of root").unwrap();
        fs::create_dir(place.files().join("dir")).unwrap();
        for name in ["secret", "dir"] {
            assert_eq!(create(ROOT, name, libc::O_TRUNC).by(5, 5).of(&server), Err(Errno::STALE));
            assert_eq!(create(ROOT, name, libc::O_EXCL).by(5, 5).of(&server), Err(Errno::EXIST));
        }
        assert_eq!(fs::read_to_string(place.files().join("secret")).unwrap(), "of root");
    });
}

#[test]
fn a_removed_file_has_no_names_and_goes_when_it_is_forgotten_under_whichever_agent() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let [one, two, three] = ["one", "two", "three"].map(|name| create(ROOT, name, 0).node(&server));
        ask(op::LINK, ROOT).u64(two).text("also two").of(&server).unwrap();
        assert_eq!([one, two, three].map(|node| links(&server, node)), [1, 2, 1]);
        ask(op::UNLINK, ROOT).text("one").of(&server).unwrap();
        ask(op::UNLINK, ROOT).text("two").of(&server).unwrap();
        rename(ROOT, "also two", ROOT, "three").of(&server).unwrap();
        assert_eq!([one, two, three].map(|node| links(&server, node)), [0, 1, 0]);
        assert_eq!(place.beside(), 2);
        assert_eq!(links_in(&setattr(one, set::SIZE, 0).of(&server).unwrap()), 0);
        drop(server);
        let server = place.server(false);
        assert_eq!([one, two, three].map(|node| links(&server, node)), [0, 1, 0]);
        // It is answered, as all is.
        let asked = ask(op::BATCH_FORGET, 0).u32(3).u32(0).u64(one).u64(1).u64(two).u64(1).u64(7 << 32).u64(1);
        assert!(Server::is_forgetting(&asked.bytes()));
        server.forget(&asked.bytes());
        assert_eq!(asked.of(&server).unwrap(), b"");
        assert_eq!((place.beside(), links(&server, two)), (1, 1));
        server.forget(&ask(op::FORGET, three).u64(1).bytes());
        assert_eq!(place.beside(), 0);
        assert_eq!(read(three, 0, 1).of(&server), Err(Errno::STALE));
    });
}

#[test]
fn names_are_not_exchanged_and_not_replaced_by_who_does_not_want_to() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        ["one", "two"].iter().for_each(|name| drop(create(ROOT, name, 0).of(&server).unwrap()));
        let rename = |flags: RenameFlags| {
            ask(op::RENAME2, ROOT).u64(ROOT).u32(flags.bits()).u32(0).text("one").text("two").of(&server)
        };
        assert_eq!(rename(RenameFlags::EXCHANGE), Err(Errno::INVAL));
        assert_eq!(rename(RenameFlags::WHITEOUT), Err(Errno::INVAL));
        assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
        assert_eq!(place.beside(), 0);
        rename(RenameFlags::empty()).unwrap();
    });
}

#[test]
fn a_pipe_is_never_opened_here() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let pipe = ask(op::MKNOD, ROOT).u32(0o010_666).u32(0).u64(0).text("pipe").node(&server);
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let path = place.files().join("pipe");
        inotify::add_watch(&watch, &path, inotify::WatchFlags::OPEN).unwrap();
        assert_eq!(ask(op::LISTXATTR, pipe).u32(100).u32(0).of(&server).unwrap(), b"");
        let get = ask(op::GETXATTR, pipe).u32(100).u32(0).text("user.note");
        let open = ask(op::OPEN, pipe).u32(0).u32(0);
        let sync = ask(op::FSYNC, pipe).u64(0).u64(0);
        for asked in [get, open, sync, read(pipe, 0, 9), write(pipe, 0, 0, b"x"), setattr(pipe, set::SIZE, 9)] {
            assert!(asked.of(&server).is_err(), "{}", asked.opcode);
        }
        let mut buffer = [MaybeUninit::uninit(); 512];
        let seen = |buffer: &mut [MaybeUninit<u8>]| inotify::Reader::new(&watch, buffer).next().map(|it| it.events());
        assert_eq!(seen(&mut buffer), Err(Errno::AGAIN));
        drop(fs::OpenOptions::new().read(true).write(true).open(&path).unwrap());
        assert!(seen(&mut buffer).unwrap().contains(inotify::ReadFlags::OPEN), "it would have been seen");
    });
}

#[test]
fn a_write_takes_from_a_file_what_makes_it_run_as_its_owner_when_it_should() {
    let place = Place::new();
    on_a_thread(|| {
        let server = place.server(false);
        let file = create(ROOT, "file", 0).node(&server);
        let path = place.files().join("file");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let again = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        let write_so = |how: u32, flags: i32| {
            let head = ask(op::WRITE, file).u64(0).u64(0).u32(1).u32(how).u64(0).u32(flags.cast_unsigned()).u32(0);
            head.data(b"x").of(&server).unwrap()
        };
        again();
        write_so(0, 0);
        assert_eq!(mode(), 0o6755);
        for flags in [0, libc::O_APPEND, libc::O_SYNC] {
            again();
            write_so(WRITE_KILL_SUIDGID, flags);
            assert_eq!(mode(), 0o755);
        }
        again();
        setattr(file, set::SIZE, 0).of(&server).unwrap();
        assert_eq!(mode(), 0o6755);
        setattr(file, set::SIZE | set::KILL_SUIDGID, 0).of(&server).unwrap();
        assert_eq!(mode(), 0o755);
        // The thread may keep them as before.
        again();
        write_so(0, 0);
        assert_eq!(mode(), 0o6755);
    });
}
