//! Whether this kernel asks before somebody reads of an image that is mounted from a file: an image is made, mounted and
//! read, of which a part is missing until we are asked for it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use atoll_image::{Limits, Spool, read_directory, write};
use rustix::event::{PollFd, PollFlags, poll};

use super::super::mount;
use super::events::Group;

/// For a read of a few pages.
const PATIENCE: Duration = Duration::from_secs(2);
static CONTENT: [u8; 65_536] = [0xa7; 65_536];

/// Success when it does, on the file system of `directory`. Blocks.
pub(super) fn kernel_asks(directory: &Path) -> io::Result<()> {
    let group = Group::new()?;
    let place = tempfile::Builder::new().prefix(".probe-").tempdir_in(directory)?;
    let (tree, path, point) = (place.path().join("tree"), place.path().join("image"), place.path().join("mnt"));
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), CONTENT)?;
    let tree = read_directory(&tree, Limits::default()).map_err(io::Error::other)?;
    let mut spool = Spool::create_in(place.path()).map_err(io::Error::other)?;
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    write(&tree, &mut spool, &mut file).map_err(io::Error::other)?;
    let mut whole = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut whole, 0)?;
    let missing = whole.windows(CONTENT.len()).position(|part| part == CONTENT);
    let missing = missing.ok_or_else(|| io::Error::other("the image has not the content that was written"))? as u64;
    file.write_all_at(&[0; CONTENT.len()], missing)?;
    group.mark(file.as_fd())?;
    mount::mount_directly(&path, &point)?;
    let read = read_asked(&group, &file, &point.join("file"), missing);
    mount::unmount(&point)?;
    read
}

fn read_asked(group: &Group, file: &File, path: &Path, missing: u64) -> io::Result<()> {
    let path = path.to_owned();
    let reader = std::thread::spawn(move || fs::read(path));
    let timeout = rustix::event::Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut asked = false;
    while !reader.is_finished() {
        let mut waiting = [PollFd::new(group, PollFlags::IN)];
        let quiet = match poll(&mut waiting, Some(if asked { &TICK } else { &timeout })) {
            Err(rustix::io::Errno::INTR) => false,
            count => count? == 0,
        };
        // Nobody asks: it has been read, or is about to be.
        if quiet && !asked {
            break;
        }
        for question in group.read()? {
            asked |= question.count < u64::MAX;
            file.write_all_at(&CONTENT, missing)?;
            group.answer(question.file.as_fd(), true)?;
        }
    }
    let read = reader.join().map_err(|_| io::Error::other("the reader was lost"))??;
    if asked && read == CONTENT { Ok(()) } else { Err(io::Error::other("files are read without a question")) }
}

/// How often the reader is looked at, once it was asked for what it reads.
const TICK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
