use std::collections::HashSet;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_image::Limits;
use atoll_image::packed::Index;
use atoll_model::LayerId;
use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// A data directory, a cache and a source of images; unmounted when the test ends, however it ends.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("atoll-images-").tempdir_in("/var/tmp").unwrap() }
    }

    fn images(&self) -> Images {
        self.images_with(ImageOptions::default())
    }

    fn images_with(&self, options: ImageOptions) -> Images {
        Images::open(&self.dir.path().join("data"), &self.dir.path().join("cache"), options).unwrap()
    }

    /// An image that holds one file with this text.
    fn make(&self, text: &str) -> (String, Bytes) {
        let tree = self.dir.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("hello"), text).unwrap();
        let path = self.dir.path().join("made.erofs");
        let output = Command::new("mkfs.erofs").arg(&path).arg(&tree).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let bytes = Bytes::from(fs::read(path).unwrap());
        (hex::encode(Sha256::digest(&bytes)), bytes)
    }

    /// Where what was fetched lies.
    fn store(&self) -> PathBuf {
        self.dir.path().join("data/fetched")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path().join("data/mnt")).into_iter().flatten().flatten() {
            let _ = mount::unmount(&entry.path());
        }
    }
}

/// Serves one answer and counts how often it was asked.
#[derive(Default)]
struct Source {
    bytes: Bytes,
    packed: bool,
    asked: AtomicUsize,
}

impl Source {
    fn of(bytes: &Bytes) -> Self {
        Self { bytes: bytes.clone(), ..Self::default() }
    }

    fn packed(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), packed: true, ..Self::default() }
    }
}

#[async_trait::async_trait]
impl Fetch for Source {
    async fn fetch(&self, digest: &str, sink: &mut ImageSink) -> Result<(), FetchError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let error = |reason: String| FetchError { digest: digest.to_owned(), reason, not_found: false };
        if self.bytes.is_empty() {
            return Err(FetchError { not_found: true, ..error("no such image".to_owned()) });
        }
        if self.packed {
            sink.comes_packed().map_err(|e| error(e.to_string()))?;
        }
        for chunk in self.bytes.chunks(1000) {
            sink.write(Bytes::copy_from_slice(chunk)).await.map_err(|e| error(e.to_string()))?;
        }
        Ok(())
    }

    async fn index(&self, _: &str) -> Result<Option<Index>, FetchError> {
        Ok(None)
    }

    async fn part(&self, digest: &str, _: Range<u64>) -> Result<Bytes, FetchError> {
        Err(FetchError { digest: digest.to_owned(), reason: "it comes whole".to_owned(), not_found: false })
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_image_is_fetched_and_mounted_once_however_many_ask() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("hello");
    let (images, source) = (machine.images(), Source::of(&bytes));
    let all = futures::future::join_all((0..50).map(|_| images.mounted(&digest, &source))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|mounted| Arc::ptr_eq(mounted.as_ref().unwrap(), first)));
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
    assert_eq!(fs::read_to_string(first.path.join("hello")).unwrap(), "hello");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let lines: Vec<_> = mounts.lines().filter(|line| line.contains(&digest)).collect();
    assert!(lines.len() == 1 && lines[0].contains("ro,nosuid,nodev"), "{lines:?}");
    assert_eq!(images.list().unwrap(), [digest]);
}

#[tokio::test]
async fn the_machine_wide_cache_spares_the_fetch_and_is_never_changed() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("cached");
    let cached = machine.dir.path().join(format!("cache/images/{digest}.erofs"));
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::write(&cached, &bytes).unwrap();
    let (images, source) = (machine.images(), Source::default());
    let mounted = images.mounted(&digest, &source).await.unwrap();
    assert_eq!(fs::read_to_string(mounted.path.join("hello")).unwrap(), "cached");
    drop(mounted);
    images.delete(&digest).await.unwrap();
    assert!(cached.exists() && names(&machine.store()).is_empty());
    assert_eq!(source.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_file_that_others_could_change_is_not_mounted() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let (digest, bytes) = machine.make("tampered");
    let cached = machine.dir.path().join(format!("cache/images/{digest}.erofs"));
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::write(&cached, &bytes).unwrap();
    fs::set_permissions(&cached, fs::Permissions::from_mode(0o666)).unwrap();
    let error = machine.images().mounted(&digest, &Source::default()).await.unwrap_err();
    assert!(matches!(error, ImageError::NotTrusted(_)), "{error}");
}

#[tokio::test]
async fn what_has_another_digest_is_never_kept_and_the_next_try_may_succeed() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("true");
    let images = machine.images();
    let error = images.mounted(&digest, &Source::of(&Bytes::from_static(b"something else"))).await.unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    let error = images.mounted(&digest, &Source::default()).await.unwrap_err();
    assert!(matches!(&error, ImageError::Fetch(fetch) if fetch.not_found), "{error}");
    assert!(names(&machine.store()).is_empty());
    assert!(images.entries().is_empty(), "names that lead nowhere are kept");
    images.mounted(&digest, &Source::of(&bytes)).await.unwrap();
}

#[tokio::test]
async fn an_image_comes_packed_and_what_is_not_whole_or_unpacks_to_more_is_refused() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("packed");
    let packed: Result<Vec<_>, _> = atoll_image::packed::Packing::new(&bytes[..]).unwrap().collect();
    let packed = packed.unwrap().concat();
    assert!(packed.len() < bytes.len());
    let tight = ImageOptions { max_image_bytes: bytes.len() as u64 - 1, ..ImageOptions::default() };
    let images = machine.images_with(tight);
    let error = images.mounted(&digest, &Source::packed(packed.clone())).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    let images = machine.images();
    for (wrong, why) in [
        (packed[..packed.len() - 1].to_vec(), "not whole"),
        (bytes.to_vec(), "not a packed image"),
        ([&packed[..], b"more"].concat(), "behind its end"),
    ] {
        let error = images.mounted(&digest, &Source::packed(wrong)).await.unwrap_err();
        let text = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let text = text.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert!(text.contains(why), "{text}");
    }
    assert!(names(&machine.store()).is_empty());
    let mounted = images.mounted(&digest, &Source::packed(packed)).await.unwrap();
    assert_eq!(fs::read_to_string(mounted.path.join("hello")).unwrap(), "packed");
}

#[tokio::test]
async fn an_image_that_is_too_large_or_a_disk_that_is_too_full_ends_the_fetch() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("large");
    let tight = ImageOptions { max_image_bytes: bytes.len() as u64 - 1, ..ImageOptions::default() };
    let error = machine.images_with(tight).mounted(&digest, &Source::of(&bytes)).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    let full = ImageOptions { reserve: u64::MAX / 2, ..ImageOptions::default() };
    let error = machine.images_with(full).mounted(&digest, &Source::of(&bytes)).await.unwrap_err();
    assert!(error.to_string().contains("left on the disk"), "{error}");
    assert!(names(&machine.store()).is_empty());
}

#[tokio::test]
async fn a_fetch_that_was_given_up_or_killed_leaves_nothing() {
    let machine = Machine::new();
    let (digest, _) = machine.make("never");
    struct Hangs;
    #[async_trait::async_trait]
    impl Fetch for Hangs {
        async fn fetch(&self, _: &str, sink: &mut ImageSink) -> Result<(), FetchError> {
            sink.write(Bytes::from_static(b"part")).await.unwrap();
            std::future::pending().await
        }

        async fn index(&self, _: &str) -> Result<Option<Index>, FetchError> {
            Ok(None)
        }

        async fn part(&self, _: &str, _: Range<u64>) -> Result<Bytes, FetchError> {
            std::future::pending().await
        }
    }
    let images = machine.images();
    {
        let mut hanging = std::pin::pin!(images.mounted(&digest, &Hangs));
        while names(&machine.store()).is_empty() {
            tokio::select! {
                _ = &mut hanging => unreachable!("it hangs"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    while !names(&machine.store()).is_empty() {
        // A write that was under way may still hold the draft.
        tokio::task::yield_now().await;
    }
    fs::write(machine.store().join(".fetching-killed"), "half").unwrap();
    machine.images();
    assert!(names(&machine.store()).is_empty());
}

#[tokio::test]
async fn an_image_in_use_is_neither_deleted_nor_unmounted() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("used");
    let (images, source) = (machine.images(), Source::of(&bytes));
    let mounted = images.mounted(&digest, &source).await.unwrap();
    assert!(matches!(images.delete(&digest).await, Err(ImageError::InUse(_))));
    assert_eq!(images.unmount_all().await.unwrap(), 1);
    assert!(mounted.path.join("hello").exists());
    drop(mounted);
    assert_eq!(images.unmount_all().await.unwrap(), 0);
    assert_eq!(images.list().unwrap(), std::slice::from_ref(&digest));
    images.mounted(&digest, &source).await.unwrap();
    images.delete(&digest).await.unwrap();
    images.delete(&digest).await.unwrap();
    assert!(images.list().unwrap().is_empty() && names(&machine.dir.path().join("data/mnt")).is_empty());
}

#[tokio::test]
async fn after_a_crash_a_mount_is_found_again() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("kept");
    let source = Source::of(&bytes);
    let before = machine.images().mounted(&digest, &source).await.unwrap();
    let images = machine.images();
    assert_eq!(images.mounted(&digest, &source).await.unwrap().path, before.path);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert_eq!(mounts.lines().filter(|line| line.contains(&digest)).count(), 1);
    drop(before);
    assert_eq!(machine.images().unmount_all().await.unwrap(), 0);
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&digest));
}

#[tokio::test]
async fn where_the_kernel_mounts_no_files_a_loop_device_does_it_and_goes_with_the_mount() {
    let machine = Machine::new();
    let (digest, bytes) = machine.make("looped");
    let images = machine.images_with(ImageOptions { force_loop: true, ..ImageOptions::default() });
    let mounted = images.mounted(&digest, &Source::of(&bytes)).await.unwrap();
    assert_eq!(fs::read_to_string(mounted.path.join("hello")).unwrap(), "looped");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(&digest)).unwrap();
    let device = line.strip_prefix("/dev/").and_then(|line| line.split(' ').next()).unwrap().to_owned();
    assert!(device.starts_with("loop"), "{line}");
    drop(mounted);
    images.delete(&digest).await.unwrap();
    let backing = format!("/sys/block/{device}/loop/backing_file");
    while fs::read_to_string(&backing).is_ok_and(|file| file.contains(&digest)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_no_digest_reaches_no_path() {
    let machine = Machine::new();
    let images = machine.images();
    for wrong in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &format!("{}/", "a".repeat(63))] {
        assert!(matches!(images.mounted(wrong, &Source::default()).await, Err(ImageError::NotADigest(_))), "{wrong}");
        assert!(matches!(images.delete(wrong).await, Err(ImageError::NotADigest(_))), "{wrong}");
    }
}

/// What a test does to a few images.
#[derive(Debug, Clone)]
enum Deed {
    /// Somebody wants it, and keeps it or gives it back at once.
    Use(usize, bool),
    GiveBack(usize),
    /// A sandbox is made from it, or the last one is gone.
    Name(usize, bool),
    Trim(u64),
    /// The agent begins anew; what it holds is taken again.
    Restart,
}

fn deeds(images: usize) -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0..images, any::<bool>()).prop_map(|(image, keeps)| Deed::Use(image, keeps)),
        2 => (0..images).prop_map(Deed::GiveBack),
        2 => (0..images, any::<bool>()).prop_map(|(image, named)| Deed::Name(image, named)),
        3 => (0..=images as u64).prop_map(Deed::Trim),
        1 => Just(Deed::Restart),
    ];
    proptest::collection::vec(deed, 1..30)
}

/// Whatever is done to a cache of images: none goes that is held or named, and those that go are the longest unused ones.
#[test]
fn what_is_needed_never_goes_and_of_the_rest_the_longest_unused_first() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let machine = Machine::new();
    let all: Vec<_> = (0..5).map(|number| machine.make(&format!("image {number}"))).collect();
    let size = all[0].1.len() as u64;
    assert!(all.iter().all(|(_, bytes)| bytes.len() as u64 == size));
    proptest!(ProptestConfig::with_cases(60), |(deeds in deeds(5))| {
        runtime.block_on(async {
            let bounded = |images: u64| {
                ImageOptions { max_fetched_bytes: images * size, reserve: 0, ..ImageOptions::default() }
            };
            let (mut images, mut held, mut named) = (machine.images_with(bounded(0)), HashMap::new(), HashSet::new());
            let mut unused_longest: Vec<usize> = Vec::new();
            for deed in deeds {
                match deed {
                    Deed::Use(image, keeps) => {
                        let (digest, bytes) = &all[image];
                        let mounted = images.mounted(digest, &Source::of(bytes)).await.unwrap();
                        assert!(mounted.path.join("hello").exists());
                        if keeps {
                            held.insert(image, mounted);
                        }
                        unused_longest.retain(|other| *other != image);
                        unused_longest.push(image);
                    }
                    Deed::GiveBack(image) => drop(held.remove(&image)),
                    Deed::Name(image, true) => drop(named.insert(image)),
                    Deed::Name(image, false) => drop(named.remove(&image)),
                    Deed::Trim(most) => {
                        images.options = bounded(most);
                        let names = named.iter().map(|image| all[*image].0.clone()).collect();
                        images.trim(&names).await.unwrap();
                        let mut surplus = unused_longest.len().saturating_sub(usize::try_from(most).unwrap());
                        unused_longest.retain(|image| {
                            let goes = surplus > 0 && !held.contains_key(image) && !named.contains(image);
                            surplus -= usize::from(goes);
                            !goes
                        });
                    }
                    Deed::Restart => {
                        images.unmount_all().await.unwrap();
                        images = machine.images_with(bounded(0));
                        for (image, mounted) in &mut held {
                            *mounted = images.mounted(&all[*image].0, &Source::default()).await.unwrap();
                            unused_longest.retain(|other| other != image);
                            unused_longest.push(*image);
                        }
                    }
                }
                let mut wanted: Vec<_> = unused_longest.iter().map(|image| all[*image].0.clone()).collect();
                wanted.sort();
                assert_eq!(images.list().unwrap(), wanted);
            }
            drop(held);
            images.options = bounded(0);
            images.trim(&HashSet::new()).await.unwrap();
            assert!(images.list().unwrap().is_empty() && names(&machine.dir.path().join("data/mnt")).is_empty());
        });
    });
}

#[tokio::test]
async fn what_was_packed_here_is_not_the_caches_to_delete() {
    let machine = Machine::new();
    let images = machine.images_with(ImageOptions { max_fetched_bytes: 0, ..ImageOptions::default() });
    let tree = machine.dir.path().join("layer");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("file"), "of this host alone").unwrap();
    let packed = images.pack(vec![tree]).await.unwrap();
    assert_eq!(images.trim(&HashSet::new()).await.unwrap(), 0);
    assert_eq!(images.list().unwrap(), std::slice::from_ref(&packed.digest));
    // An order to delete what an older layer had under this digest may be on its way.
    assert!(matches!(images.delete(&packed.digest).await, Err(ImageError::InUse(_))));
    tokio::time::pause();
    tokio::time::advance(super::PACKED_STAYS).await;
    images.delete(&packed.digest).await.unwrap();
    assert!(images.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_layers_image_has_its_name_is_bounded_and_goes_with_it() {
    let machine = Machine::new();
    let images = machine.images();
    let (layer, tree) = (LayerId::new(), machine.dir.path().join("layer"));
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("file"), "of a layer").unwrap();
    assert!(images.layer(&layer).await.unwrap().is_none());
    let small = Limits { bytes: 3, ..Limits::default() };
    let error = images.pack_layer(&layer, tree.clone(), small).await.unwrap_err();
    assert!(matches!(error, ImageError::Pack(atoll_image::ImageError::TooLarge(_))), "{error}");
    assert!(images.layer(&layer).await.unwrap().is_none());
    for _ in 0..2 {
        images.pack_layer(&layer, tree.clone(), Limits::default()).await.unwrap();
    }
    let mounted = images.layer(&layer).await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(mounted.path.join("file")).unwrap(), "of a layer");
    assert!(images.list().unwrap().is_empty() && images.trim(&HashSet::new()).await.unwrap() == 0);
    assert!(matches!(images.delete_layer(&layer).await, Err(ImageError::InUse(_))));
    drop(mounted);
    images.delete_layer(&layer).await.unwrap();
    images.delete_layer(&layer).await.unwrap();
    let images = machine.dir.path().join("data/images");
    assert!(names(&images).is_empty() && names(&machine.dir.path().join("data/mnt")).is_empty());
}
