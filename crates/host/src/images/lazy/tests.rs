//! Images that are read before they are whole, on the real kernel, with holders that are processes of their own.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use atoll_image::packed::{Index, Packer};
use atoll_image::{Limits, Spool, read_directory, write};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::{ImageSink, Images, Mounted, mount};
use super::*;

const FILES: usize = 8;
const FILE_BYTES: usize = 3 << 20;
const CHUNK: usize = atoll_image::packed::CHUNK;

/// What a source gives at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    All,
    /// What must be there before the image can be mounted; who asks for more waits.
    Metadata,
    /// Errors.
    Nothing,
}

struct Source {
    packed: Vec<u8>,
    index: Index,
    gives: watch::Sender<Gives>,
    /// Chunks that are not what they were.
    spoiled: Mutex<HashSet<usize>>,
    /// Chunks that were asked for, each time.
    asked: Mutex<Vec<usize>>,
    whole: AtomicUsize,
}

impl Source {
    fn is_metadata(&self, chunk: usize) -> bool {
        // Names and inodes are behind all contents.
        chunk == 0 || chunk + 1 == self.index.chunks().len()
    }

    fn times_asked(&self, chunk: usize) -> usize {
        lock(&self.asked).iter().filter(|asked| **asked == chunk).count()
    }
}

#[async_trait::async_trait]
impl Fetch for Source {
    async fn fetch(&self, digest: &str, sink: &mut ImageSink) -> Result<(), FetchError> {
        let fail =
            |error: io::Error| FetchError { digest: digest.to_owned(), reason: error.to_string(), not_found: false };
        self.whole.fetch_add(1, Ordering::Relaxed);
        sink.comes_packed().map_err(fail)?;
        sink.write(Bytes::copy_from_slice(&self.packed)).await.map_err(fail)
    }

    async fn index(&self, _: &str) -> Result<Option<Index>, FetchError> {
        Ok(Some(self.index.clone()))
    }

    async fn part(&self, digest: &str, part: Range<u64>) -> Result<Bytes, FetchError> {
        let chunks: Vec<usize> = (0..self.index.chunks().len())
            .filter(|chunk| part.contains(&self.index.packed(&(*chunk..*chunk + 1)).start))
            .collect();
        lock(&self.asked).extend(&chunks);
        let mut gives = self.gives.subscribe();
        let all_metadata = chunks.iter().all(|chunk| self.is_metadata(*chunk));
        let given = gives.wait_for(|gives| *gives != Gives::Metadata || all_metadata).await;
        if given.map_or(Gives::Nothing, |gives| *gives) == Gives::Nothing {
            return Err(FetchError { digest: digest.to_owned(), reason: "it is away".to_owned(), not_found: false });
        }
        let mut bytes = self.packed[part.start as usize..part.end as usize].to_vec();
        for chunk in lock(&self.spoiled).iter().filter(|chunk| chunks.contains(chunk)) {
            let place = self.index.packed(&(*chunk..*chunk + 1));
            bytes[(place.end - part.start) as usize - 10] ^= 1;
        }
        Ok(bytes.into())
    }
}

/// A data directory, and an image with some large files that can't be packed smaller.
struct Rig {
    dir: tempfile::TempDir,
    digest: String,
    files: Vec<Vec<u8>>,
    source: Arc<Source>,
}

/// Waits for it.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let patient = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patient).await.unwrap_or_else(|_| panic!("never: {what}"));
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-lazy-").tempdir_in("/var/tmp").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let files: Vec<Vec<u8>> = (0..FILES)
            .map(|number| {
                let mut bytes = vec![0; FILE_BYTES];
                rand::Rng::fill(&mut rand::rng(), bytes.as_mut_slice());
                fs::write(tree.join(number.to_string()), &bytes).unwrap();
                bytes
            })
            .collect();
        fs::write(tree.join("small"), "stands behind its inode").unwrap();
        let path = dir.path().join("image");
        let mut image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let tree = read_directory(&tree, Limits::default()).unwrap();
        let written = write(&tree, &mut Spool::create_in(dir.path()).unwrap(), &mut image).unwrap();
        let mut packer = Packer::indexing().unwrap();
        let mut packed = packer.push(&fs::read(&path).unwrap()).unwrap();
        let (end, index) = packer.finish_indexed().unwrap();
        packed.extend(end);
        let gives = watch::channel(Gives::Metadata).0;
        let (spoiled, asked, whole) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        let source = Arc::new(Source { packed, index: index.unwrap(), gives, spoiled, asked, whole });
        Self { dir, digest: written.digest, files, source }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn images(&self) -> Images {
        self.images_with(ImageOptions { lazy_from_bytes: 1 << 20, ..ImageOptions::default() }).await
    }

    async fn images_with(&self, options: ImageOptions) -> Images {
        let images = Images::open(&self.data(), &self.dir.path().join("cache"), options).unwrap();
        images.fetch_lazily(self.source.clone(), std::env::current_exe().unwrap()).await.unwrap();
        assert!(
            images.lazies().unwrap().inner.kernel_asks,
            "this kernel has no pre-content events: Linux 6.14 or later"
        );
        images
    }

    async fn mounted(&self, images: &Images) -> Arc<Mounted> {
        images.mounted(&self.digest, &*self.source).await.unwrap()
    }

    /// Reads a file of the image, in a thread of its own.
    fn read(&self, mounted: &Mounted, file: usize) -> JoinHandle<io::Result<Vec<u8>>> {
        let path = mounted.path.join(file.to_string());
        std::thread::spawn(move || fs::read(path))
    }

    /// The chunk that a file begins in. Contents begin behind the first block, one file after the other.
    fn first_chunk(file: usize) -> usize {
        (4096 + file * FILE_BYTES) / CHUNK
    }

    async fn assert_same(&self, mounted: &Mounted) {
        for (number, bytes) in self.files.iter().enumerate() {
            let reading = self.read(mounted, number);
            until("a file is read", || reading.is_finished()).await;
            assert!(reading.join().unwrap().unwrap() == *bytes, "file {number}");
        }
    }

    async fn until_whole(&self, images: &Images) {
        until("it is whole", || {
            images.file(&self.digest).unwrap().is_some() && !images.lazies().unwrap().has(&self.digest)
        })
        .await;
        let file = images.file(&self.digest).unwrap().unwrap();
        assert_eq!(hex::encode(Sha256::digest(fs::read(file).unwrap())), self.digest);
    }

    fn holders(&self) -> Vec<i32> {
        let lazy = self.data().join("lazy").display().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(HOLDER) && line.contains(&lazy)
        };
        pids.filter(is_ours).collect()
    }

    /// What is left of incomplete images.
    async fn assert_nothing_left(&self) {
        until("the holder has ended", || self.holders().is_empty()).await;
        let boot = self.data().join("lazy").join(boot_id().unwrap());
        let left: Vec<_> = fs::read_dir(boot).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(fs::read_dir(self.data().join("mnt")).unwrap().next().is_none());
        assert_eq!(fs::read_dir(self.data().join("lazy")).unwrap().count(), 1);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Also when the test has failed: nobody waits for what will never come.
        self.source.gives.send_replace(Gives::Nothing);
        for pid in self.holders() {
            let _ended = rustix::process::Pid::from_raw(pid)
                .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        for entry in fs::read_dir(self.data().join("mnt")).into_iter().flatten().flatten() {
            let _ = mount::unmount(&entry.path());
        }
    }
}

#[test]
fn an_image_comes_lazily_where_the_kernel_asks_and_it_pays() {
    let way = |kernel_asks, bytes| comes_lazily(Circumstances { kernel_asks, bytes, least: 64 << 20 });
    assert!(way(true, 64 << 20) && way(true, 1 << 40));
    assert!(!way(true, (64 << 20) - 1) && !way(false, 1 << 40));
}

#[tokio::test]
async fn an_image_is_read_before_it_is_whole_and_is_a_file_like_any_other_then() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    assert_eq!(fs::read_to_string(mounted.path.join("small")).unwrap(), "stands behind its inode");
    assert_eq!(fs::read_dir(&mounted.path).unwrap().count(), FILES + 1);
    assert!(images.file(&rig.digest).unwrap().is_none() && images.list().unwrap().contains(&rig.digest));
    assert_eq!(rig.holders().len(), 1);
    let open_before = File::open(&mounted.file).unwrap();
    rig.source.gives.send_replace(Gives::All);
    rig.assert_same(&mounted).await;
    rig.until_whole(&images).await;
    for chunk in 0..rig.source.index.chunks().len() {
        assert_eq!(rig.source.times_asked(chunk), 1, "chunk {chunk}");
    }
    assert_eq!(rig.source.whole.load(Ordering::Relaxed), 0);
    until("the holder has ended", || rig.holders().is_empty()).await;
    // By its first name as well, and for who has it open.
    rig.assert_same(&mounted).await;
    for mut file in [File::open(&mounted.file).unwrap(), open_before] {
        let mut hasher = Sha256::new();
        io::copy(&mut file, &mut hasher).unwrap();
        assert_eq!(hex::encode(hasher.finalize()), rig.digest);
    }
    drop(mounted);
    images.delete(&rig.digest).await.unwrap();
    assert!(images.list().unwrap().is_empty());
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_disk_that_is_read_as_a_file_waits_too() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    let file = mounted.file.clone();
    let reading = std::thread::spawn(move || fs::read(file));
    until("it is asked for", || rig.source.times_asked(1) > 0).await;
    rig.source.gives.send_replace(Gives::All);
    until("it is read", || reading.is_finished()).await;
    assert_eq!(hex::encode(Sha256::digest(reading.join().unwrap().unwrap())), rig.digest);
    rig.until_whole(&images).await;
}

#[tokio::test]
async fn readers_of_one_missing_part_have_it_fetched_once_and_before_the_rest() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    let readers: Vec<_> = (0..6).map(|_| rig.read(&mounted, FILES - 2)).collect();
    let first = Rig::first_chunk(FILES - 2);
    until("it is asked for", || rig.source.times_asked(first) > 0).await;
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    rig.source.gives.send_replace(Gives::All);
    for reader in readers {
        until("a reader goes on", || reader.is_finished()).await;
        assert!(reader.join().unwrap().unwrap() == rig.files[FILES - 2]);
    }
    assert_eq!((rig.source.times_asked(first), rig.source.times_asked(first + 1)), (1, 1));
    rig.until_whole(&images).await;
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_an_error_and_never_content_and_comes_anew() {
    let rig = Rig::new();
    // Of this file alone.
    let chunk = Rig::first_chunk(2) + 1;
    lock(&rig.source.spoiled).insert(chunk);
    let patience = Duration::from_millis(900);
    let options = ImageOptions { lazy_from_bytes: 1 << 20, reader_patience: patience, ..ImageOptions::default() };
    let images = rig.images_with(options).await;
    rig.source.gives.send_replace(Gives::All);
    let mounted = rig.mounted(&images).await;
    let reading = rig.read(&mounted, 2);
    until("the reader is told", || reading.is_finished()).await;
    assert_eq!(reading.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    until("it is given up", || images.lazies().unwrap().has_failed(&rig.digest)).await;
    for (number, bytes) in rig.files.iter().enumerate() {
        match rig.read(&mounted, number).join().unwrap() {
            Ok(read) => assert!(read == *bytes && number != 2),
            Err(error) => assert!(number == 2 && error.raw_os_error() == Some(libc::EIO), "{number}: {error}"),
        }
    }
    // Nobody new gets it while others have it; it comes anew when they are gone.
    let refused = images.mounted(&rig.digest, &*rig.source).await.unwrap_err();
    assert!(matches!(refused, ImageError::Incomplete(_)), "{refused}");
    assert_eq!(images.trim(&HashSet::new()).await.unwrap(), 0);
    assert!(images.lazies().unwrap().has(&rig.digest));
    drop(mounted);
    images.trim(&HashSet::new()).await.unwrap();
    rig.assert_nothing_left().await;
    lock(&rig.source.spoiled).clear();
    let mounted = rig.mounted(&images).await;
    rig.assert_same(&mounted).await;
    rig.until_whole(&images).await;
}

#[tokio::test]
async fn while_the_source_is_away_readers_wait_and_then_go_on() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    rig.source.gives.send_replace(Gives::Nothing);
    let reading = rig.read(&mounted, 4);
    let chunk = Rig::first_chunk(4);
    until("it is asked for again", || rig.source.times_asked(chunk) > 2).await;
    assert!(!reading.is_finished());
    rig.source.gives.send_replace(Gives::All);
    until("the reader goes on", || reading.is_finished()).await;
    assert!(reading.join().unwrap().unwrap() == rig.files[4]);
    rig.until_whole(&images).await;
}

#[tokio::test]
async fn a_reader_gets_an_error_when_its_part_does_not_come_in_time() {
    let rig = Rig::new();
    let patience = Duration::from_millis(300);
    let options = ImageOptions { lazy_from_bytes: 1 << 20, reader_patience: patience, ..ImageOptions::default() };
    let images = rig.images_with(options).await;
    let mounted = rig.mounted(&images).await;
    let reading = rig.read(&mounted, 3);
    until("the reader is told", || reading.is_finished()).await;
    assert_eq!(reading.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    rig.source.gives.send_replace(Gives::All);
    rig.assert_same(&mounted).await;
}

#[tokio::test]
async fn when_the_agent_dies_readers_wait_for_the_next_one() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    // One has asked before the agent dies, the other asks while there is none.
    let before = rig.read(&mounted, 4);
    until("it is asked for", || rig.source.times_asked(Rig::first_chunk(4)) > 0).await;
    drop(images);
    let after = rig.read(&mounted, 6);
    assert_eq!(rig.holders().len(), 1);
    rig.source.gives.send_replace(Gives::All);
    let images = rig.images().await;
    for (reader, file) in [(before, 4), (after, 6)] {
        until("a reader goes on", || reader.is_finished()).await;
        assert!(reader.join().unwrap().unwrap() == rig.files[file]);
    }
    let again = rig.mounted(&images).await;
    rig.assert_same(&again).await;
    rig.until_whole(&images).await;
    drop((again, mounted));
    assert_eq!(images.unmount_all().await.unwrap(), 0);
    // The next agent clears the image's first name away.
    drop(images);
    drop(rig.images().await);
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_holder_that_is_killed_is_replaced_and_nobody_reads_what_is_not_there() {
    let rig = Rig::new();
    let images = rig.images().await;
    let mounted = rig.mounted(&images).await;
    let before = rig.read(&mounted, 4);
    until("it is asked for", || rig.source.times_asked(Rig::first_chunk(4)) > 0).await;
    let [killed] = rig.holders()[..] else { panic!("one holder") };
    let ended = Command::new("kill").args(["-9", &killed.to_string()]).status().unwrap();
    assert!(ended.success());
    until("another one is there", || rig.holders().iter().any(|pid| *pid != killed)).await;
    let after = rig.read(&mounted, 6);
    rig.source.gives.send_replace(Gives::All);
    for (reader, file) in [(after, 6), (before, 4)] {
        until("a reader goes on", || reader.is_finished()).await;
        assert!(reader.join().unwrap().unwrap() == rig.files[file]);
    }
    rig.until_whole(&images).await;
}

#[tokio::test]
async fn an_image_that_is_not_whole_stays_while_it_is_held_and_leaves_nothing_when_it_is_not() {
    let rig = Rig::new();
    let options = ImageOptions { lazy_from_bytes: 1 << 20, max_fetched_bytes: 0, ..ImageOptions::default() };
    let images = rig.images_with(options).await;
    let mounted = rig.mounted(&images).await;
    assert_eq!(images.trim(&HashSet::new()).await.unwrap(), 0);
    assert!(matches!(images.delete(&rig.digest).await, Err(ImageError::InUse(_))));
    assert_eq!(images.unmount_all().await.unwrap(), 1);
    assert!(mounted.path.join("small").exists());
    drop(mounted);
    images.delete(&rig.digest).await.unwrap();
    rig.assert_nothing_left().await;
    // The end of the agent gives up what nobody holds.
    drop(rig.mounted(&images).await);
    assert_eq!(images.unmount_all().await.unwrap(), 0);
    rig.assert_nothing_left().await;
    // Once whole it goes as any other.
    rig.source.gives.send_replace(Gives::All);
    drop(rig.mounted(&images).await);
    rig.until_whole(&images).await;
    assert!(images.trim(&HashSet::new()).await.unwrap() > 0);
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn what_was_begun_before_a_reboot_or_never_held_is_deleted() {
    let rig = Rig::new();
    let earlier = rig.data().join("lazy/an-earlier-boot");
    let present = rig.data().join("lazy").join(boot_id().unwrap());
    for place in [&earlier, &present] {
        fs::create_dir_all(place).unwrap();
        fs::write(place.join(format!("{}.erofs", rig.digest)), "half").unwrap();
        fs::write(place.join(format!("{}.idx", rig.digest)), rig.source.index.encode()).unwrap();
    }
    let images = rig.images().await;
    assert!(!earlier.exists() && images.list().unwrap().is_empty());
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn who_wants_all_of_an_image_under_way_waits_for_it() {
    let rig = Rig::new();
    let images = Arc::new(rig.images().await);
    assert!(images.comes_lazily(&rig.digest).await.unwrap());
    let opening = {
        let (images, source, digest) = (images.clone(), rig.source.clone(), rig.digest.clone());
        tokio::spawn(async move { images.opened(&digest, &*source).await })
    };
    rig.source.gives.send_replace(Gives::All);
    let mut hasher = Sha256::new();
    io::copy(&mut opening.await.unwrap().unwrap(), &mut hasher).unwrap();
    assert_eq!(hex::encode(hasher.finalize()), rig.digest);
    assert_eq!(rig.source.whole.load(Ordering::Relaxed), 0);
    assert!(!images.comes_lazily(&rig.digest).await.unwrap(), "it is there");
}

#[tokio::test]
async fn a_small_image_comes_whole() {
    let rig = Rig::new();
    let images = rig.images_with(ImageOptions::default()).await;
    let mounted = rig.mounted(&images).await;
    rig.assert_same(&mounted).await;
    assert_eq!(rig.source.whole.load(Ordering::Relaxed), 1);
    assert!(rig.holders().is_empty() && lock(&rig.source.asked).is_empty());
}
