use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use atoll_model::LayerId;

use super::*;

/// A pool in a directory of its own; unmounted and deleted when the test ends, however it ends.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("atoll-pool-").tempdir_in("/var/tmp").unwrap() }
    }

    fn open(&self, options: &PoolOptions) -> Pool {
        Pool::open(self.dir.path(), options).unwrap()
    }

    fn pool(&self) -> PathBuf {
        self.dir.path().join("pool")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        while loop_device::is_mount_point(&self.pool()).unwrap_or(false) {
            if rustix::mount::unmount(self.pool(), rustix::mount::UnmountFlags::DETACH).is_err() {
                break;
            }
        }
    }
}

fn small() -> PoolOptions {
    PoolOptions { size_limit: Some(2 << 30), ..PoolOptions::default() }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(60), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes until it may not, as `dd` does. Returns what went in, and why it stopped.
fn fill(path: &Path, most: u64) -> (u64, io::Error) {
    let mut file = File::create(path).unwrap();
    let chunk = vec![0x5a; 1 << 20];
    let mut written = 0;
    while written < most {
        match file.write(&chunk) {
            Ok(count) => written += count as u64,
            Err(error) => return (written, error),
        }
    }
    (written, io::Error::other("nothing stopped it"))
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).filter_map(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

fn quota_holds(options: &PoolOptions) {
    let machine = Machine::new();
    let pool = machine.open(options);
    let simple = !options.force_full_quotas && kernel_is_at_least(6, 7);
    let kind = if simple { btrfs::QuotaKind::Simple } else { btrfs::QuotaKind::Full };
    assert_eq!(btrfs::quota_kind(&pool.backing.sysfs), Some(kind));
    let (id, neighbour) = (SandboxId::new(), SandboxId::new());
    let volume = pool.create_volume(&id, 50 << 20).unwrap();
    let other = pool.create_volume(&neighbour, 50 << 20).unwrap();
    let (written, error) = fill(&volume.up().join("big"), 500 << 20);
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
    assert!((40 << 20..=50 << 20).contains(&written), "{written} bytes went into 50 MiB");
    fs::write(other.up().join("note"), "still fine").unwrap();
    File::open(volume.path.join("up/big")).unwrap().sync_all().unwrap();
    eventually("what was written is counted", || pool.usage(&id).unwrap() >= 40 << 20);
    assert!(pool.usage(&id).unwrap() <= 50 << 20);
    fs::remove_file(volume.up().join("big")).unwrap();
    eventually("what was deleted can be written again", || fill(&volume.up().join("again"), 20 << 20).0 == 20 << 20);
    pool.set_limit(&id, 200 << 20).unwrap();
    assert!(fill(&volume.up().join("more"), 100 << 20).0 == 100 << 20);
}

#[test]
fn a_quota_stops_a_writer_and_nobody_else() {
    quota_holds(&small());
}

#[test]
fn a_full_quota_stops_a_writer_and_nobody_else() {
    quota_holds(&PoolOptions { force_full_quotas: true, ..small() });
}

#[test]
fn a_quota_counts_empty_files_too() {
    let machine = Machine::new();
    let pool = machine.open(&small());
    let id = SandboxId::new();
    let volume = pool.create_volume(&id, 24 << 20).unwrap();
    let mut stopped = None;
    for number in 0..200_000 {
        if let Err(error) = File::create(volume.up().join(format!("{number:064}"))) {
            stopped = Some((number, error));
            break;
        }
    }
    let (count, error) = stopped.expect("200,000 empty files went into 24 MiB");
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
    assert!(count > 5_000, "only {count} files");
    fs::write(pool.create_volume(&SandboxId::new(), 24 << 20).unwrap().up().join("note"), "still fine").unwrap();
}

#[test]
fn a_clone_begins_with_what_a_layer_holds_and_has_a_limit_of_its_own() {
    for force_full_quotas in [false, true] {
        let machine = Machine::new();
        let pool = machine.open(&PoolOptions { force_full_quotas, ..small() });
        let (parent, child, layer) = (SandboxId::new(), SandboxId::new(), LayerId::new());
        let volume = pool.create_volume(&parent, 50 << 20).unwrap();
        fs::write(volume.up().join("old"), "old").unwrap();
        pool.snapshot_volume(&parent, &layer).unwrap();
        let clone = pool.clone_layer(&child, &layer, 24 << 20).unwrap();
        assert!(pool.clone_layer(&child, &layer, 24 << 20).is_err(), "a volume was made twice");
        assert_eq!(pool.open_volume(&child), Some(clone.clone()));
        assert_eq!(fs::read_to_string(clone.up().join("old")).unwrap(), "old");
        fs::write(clone.up().join("new"), "new").unwrap();
        let inode = |name: &str| fs::metadata(clone.up().join(name)).unwrap().ino();
        assert_ne!(inode("old"), inode("new"));
        assert!(!volume.up().join("new").exists());
        assert!(!pool.layer(&layer).unwrap().join("new").exists());
        // Full quotas are counted anew behind the call.
        let mut written = 0;
        eventually("the limit holds", || {
            let (count, error) = fill(&clone.up().join("big"), 100 << 20);
            written = count;
            error.kind() == io::ErrorKind::QuotaExceeded
        });
        assert!(
            (16 << 20..=24 << 20).contains(&written),
            "{written} bytes went into 24 MiB, full: {force_full_quotas}"
        );
        pool.delete_volume(&child).unwrap();
        assert!(pool.clone_layer(&SandboxId::new(), &LayerId::new(), 1 << 20).is_err());
    }
}

#[test]
fn a_disk_of_another_host_is_there_whole_or_not_at_all() {
    let machine = Machine::new();
    let pool = machine.open(&small());
    let (layer, digest) = (LayerId::new(), "d".repeat(64));
    let names = || fs::read_dir(machine.pool().join(layers::FOLDER)).map_or(0, |entries| entries.count());
    let half = |disk: &File| {
        rustix::io::pwrite(disk, b"half", 0)?;
        Err(io::Error::other("the rest does not come"))
    };
    let error = pool.import_disk(&layer, &digest, 4, half).unwrap_err().to_string();
    assert!(error.contains("the rest does not come"), "{error}");
    assert_eq!((pool.layer(&layer), names()), (None, 0));
    let too_large = pool.import_disk(&layer, &digest, 1 << 50, |_| panic!("it was begun"));
    assert!(matches!(too_large, Err(StorageError::Full(_))), "{too_large:?}");

    let fill = |disk: &File| {
        rustix::io::pwrite(disk, b"whole", 1 << 20)?;
        Ok(())
    };
    let before = std::time::SystemTime::now() - Duration::from_secs(60);
    pool.import_disk(&layer, &digest, 5, fill).unwrap();
    pool.import_disk(&layer, &digest, 5, |_| panic!("it is there")).unwrap();
    let disk = pool.layer(&layer).unwrap().with_file_name("disk");
    assert_eq!(&fs::read(&disk).unwrap()[1 << 20..], b"whole");
    assert_eq!(fs::metadata(&disk).unwrap().mode() & 0o777, 0o600);
    let imports = pool.imports().unwrap();
    assert_eq!((imports.len(), &imports[0].layer, &imports[0].digest, imports[0].bytes), (1, &layer, &digest, 5));
    assert!(imports[0].used >= before);
    let times = fs::FileTimes::new().set_modified(before);
    File::open(disk.with_file_name("origin")).unwrap().set_times(times).unwrap();
    assert_eq!(pool.imports().unwrap()[0].used, before);
    pool.note_use(&layer);
    assert!(pool.imports().unwrap()[0].used > before);
    // One that was made here is none, and noting its use is nothing.
    let (id, own) = (SandboxId::new(), LayerId::new());
    pool.create_volume(&id, 16 << 20).unwrap();
    pool.snapshot_volume(&id, &own).unwrap();
    pool.note_use(&own);
    assert_eq!(pool.imports().unwrap().len(), 1);

    // An agent that died on the way leaves one that the next agent removes.
    let parent = pool.folder(layers::FOLDER).unwrap();
    btrfs::create_subvolume(parent.as_fd(), ".importing-lay-x", 1 << 30, pool.group).unwrap();
    drop(parent);
    drop(pool);
    let pool = machine.open(&small());
    assert_eq!(names(), 2, "the layer and the snapshot");
    assert_eq!(pool.imports().unwrap().len(), 1);
    pool.delete_layer(&layer).unwrap();
    assert_eq!((pool.layer(&layer), pool.imports().unwrap().len()), (None, 0));
}

#[test]
fn a_volume_is_made_of_two_directories_of_root() {
    let machine = Machine::new();
    let pool = machine.open(&small());
    let id = SandboxId::new();
    assert_eq!(pool.open_volume(&id), None);
    let volume = pool.create_volume(&id, 1 << 30).unwrap();
    let meta = fs::metadata(volume.up()).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (0, 0, 0o755));
    assert!(volume.work().is_dir());
    assert_eq!(pool.open_volume(&id), Some(volume.clone()));
    assert_eq!(pool.list_volumes().unwrap(), std::slice::from_ref(&id));
    fs::write(volume.up().join("kept"), "x").unwrap();
    assert!(pool.create_volume(&id, 1 << 30).is_err(), "a volume was made twice");
    assert!(volume.up().join("kept").exists());
    let flags = rustix::fs::statvfs(&volume.path).unwrap().f_flag;
    use rustix::fs::StatVfsMountFlags;
    assert!(flags.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
}

#[test]
fn deleting_takes_contents_and_quota_group_and_may_be_repeated() {
    let machine = Machine::new();
    for options in [small(), PoolOptions { force_full_quotas: true, ..small() }] {
        let pool = machine.open(&options);
        let id = SandboxId::new();
        let volume = pool.create_volume(&id, 100 << 20).unwrap();
        fs::create_dir_all(volume.up().join("a/b/c")).unwrap();
        fill(&volume.up().join("a/b/c/d"), 10 << 20);
        pool.delete_volume(&id).unwrap();
        pool.delete_volume(&id).unwrap();
        assert_eq!(pool.open_volume(&id), None);
        eventually("the quota groups are gone", || {
            rustix::fs::syncfs(&pool.root).unwrap();
            pool.delete_volume(&id).unwrap();
            btrfs::subvolume_groups(&pool.backing.sysfs).unwrap().iter().all(|group| *group < 256)
        });
        assert!(pool.close().unwrap());
        drop(pool);
        fs::remove_file(machine.dir.path().join("pool.img")).unwrap();
    }
}

#[test]
fn what_is_freed_returns_to_the_file_system_below() {
    let machine = Machine::new();
    let pool = machine.open(&small());
    let image = machine.dir.path().join("pool.img");
    let allocated = || fs::metadata(&image).unwrap().blocks() * 512;
    let id = SandboxId::new();
    let volume = pool.create_volume(&id, 1 << 30).unwrap();
    fill(&volume.up().join("big"), 200 << 20);
    rustix::fs::syncfs(&pool.root).unwrap();
    assert!(allocated() > 200 << 20);
    pool.delete_volume(&id).unwrap();
    eventually("the image has shrunk", || {
        rustix::fs::syncfs(&pool.root).unwrap();
        allocated() < 100 << 20
    });
}

#[test]
fn after_a_crash_the_pool_and_its_volumes_are_found_again() {
    let machine = Machine::new();
    let id = SandboxId::new();
    {
        let pool = machine.open(&small());
        let volume = pool.create_volume(&id, 50 << 20).unwrap();
        fs::write(volume.up().join("file"), "kept").unwrap();
        assert!(!pool.close().unwrap(), "a pool with a volume was unmounted");
    }
    // The mount has outlived its agent.
    let pool = machine.open(&small());
    let volume = pool.open_volume(&id).unwrap();
    assert_eq!(fs::read_to_string(volume.up().join("file")).unwrap(), "kept");
    assert!(fill(&volume.up().join("big"), 100 << 20).0 <= 50 << 20, "the limit was forgotten");
    drop(pool);
    // The machine was rebooted.
    rustix::mount::unmount(machine.pool(), rustix::mount::UnmountFlags::empty()).unwrap();
    fs::write(machine.dir.path().join("pool.img.new"), "half-made").unwrap();
    let pool = machine.open(&PoolOptions { size_limit: Some(3 << 30), ..small() });
    let volume = pool.open_volume(&id).unwrap();
    assert_eq!(fs::read_to_string(volume.up().join("file")).unwrap(), "kept");
    let size = rustix::fs::statvfs(&volume.path).unwrap();
    assert_eq!(size.f_blocks * size.f_frsize, 3 << 30, "a larger limit makes the pool grow");
}

#[test]
fn pools_side_by_side_know_nothing_of_each_other_and_leave_nothing() {
    let machines = [Machine::new(), Machine::new()];
    let pools: Vec<_> = machines.iter().map(|machine| machine.open(&small())).collect();
    let id = SandboxId::new();
    pools[0].create_volume(&id, 1 << 30).unwrap();
    assert_eq!(pools[1].open_volume(&id), None);
    pools[1].create_volume(&id, 1 << 30).unwrap();
    for pool in pools {
        pool.delete_volume(&id).unwrap();
        assert!(pool.close().unwrap());
    }
    for machine in &machines {
        let path = machine.dir.path().display().to_string();
        let backing_files = || {
            let devices = fs::read_dir("/sys/block").unwrap().flatten();
            devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok())
        };
        eventually("the loop device is gone", || !backing_files().any(|file| file.contains(&path)));
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path));
    }
}

#[test]
fn creates_are_refused_before_the_disk_below_is_full() {
    let machine = Machine::new();
    let pool = machine.open(&PoolOptions { reserve: u64::MAX / 2, ..small() });
    let full = pool.admit(1 << 30).unwrap_err();
    assert_eq!((full.available, full.wanted), (0, 256 << 20));
    drop(pool);
    let pool = machine.open(&small());
    pool.admit(1 << 30).unwrap();
    pool.admit(64 << 30).unwrap_err();
}

#[test]
fn when_the_disk_below_is_almost_full_writers_are_stopped_and_the_pool_lives_on() {
    let machine = Machine::new();
    let free = {
        let below = rustix::fs::statvfs(machine.dir.path()).unwrap();
        below.f_bavail * below.f_frsize
    };
    // 256 MiB remain for sandboxes: half of what one alone is promised.
    let pool = machine.open(&PoolOptions { reserve: free - (512 << 20), ..small() });
    let volume = pool.create_volume(&SandboxId::new(), 1 << 40).unwrap();
    let (written, error) = fill(&volume.up().join("big"), 2 << 30);
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "after {written}: {error}");
    assert!(written <= 600 << 20, "{written}");
    fs::remove_file(volume.up().join("big")).unwrap();
    eventually("there is room again", || fs::write(volume.up().join("small"), [0; 4096]).is_ok());
}

#[test]
fn a_data_directory_that_is_a_btrfs_already_needs_no_image() {
    let machine = Machine::new();
    // The machine's own btrfs: a pool serves as well as any.
    let outer = machine.open(&small());
    let data = outer.create_volume(&SandboxId::new(), 1 << 30).unwrap().up();
    let pool = Pool::open(&data, &PoolOptions { reserve: 0, ..small() }).unwrap();
    let guard = Unmount(data.join("pool"));
    assert!(!data.join("pool.img").exists());
    let id = SandboxId::new();
    let volume = pool.create_volume(&id, 50 << 20).unwrap();
    let (written, error) = fill(&volume.up().join("big"), 100 << 20);
    assert!(error.kind() == io::ErrorKind::QuotaExceeded && written <= 50 << 20, "{written} {error}");
    use rustix::fs::StatVfsMountFlags;
    let flags = rustix::fs::statvfs(&volume.path).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
    pool.delete_volume(&id).unwrap();
    assert!(pool.close().unwrap());
    assert!(!loop_device::is_mount_point(&data.join("pool")).unwrap());
    drop(guard);
}

/// Unmounts when the test ends, however it ends.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
