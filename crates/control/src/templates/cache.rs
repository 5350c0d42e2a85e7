//! The machine-wide image cache: which image a recipe became, and the images themselves.
//!
//!     <cache>/templates/<name>-<recipe hash>.json   what the recipe became: digest and size
//!     <cache>/templates/<name>.lock                 held (flock) by whoever builds
//!     <cache>/building/<name>/                      the one build in progress; a leftover is swept by the next
//!     <cache>/images/<sha256>.erofs                 images, 0600, never changed once they have their name
//!
//! Any number of Atolls, of any versions, share it. Nothing becomes visible half-written: files get their names by
//! rename after fsync, the image before the record that names it. It never deletes images: sandboxes may run on them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BaseImage;

/// The cache, by its directory.
#[derive(Debug, Clone)]
pub(super) struct ImageCache {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    digest: String,
    size_bytes: u64,
}

impl ImageCache {
    /// Opens the cache and makes its directories. Images hold files that belong to root, setuid ones among them, so
    /// `images` is for root alone.
    pub fn open(directory: &Path) -> io::Result<Self> {
        for (name, mode) in [("", 0o755), ("templates", 0o755), ("building", 0o700), ("images", 0o700)] {
            let path = directory.join(name);
            fs::DirBuilder::new().recursive(true).mode(mode).create(&path)?;
            if mode == 0o700 {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// What the recipe became, when its image is still there and whole (a cut-off image has another size).
    pub fn find(&self, name: &str, recipe_hash: &str) -> Option<BaseImage> {
        let record: Record = serde_json::from_slice(&fs::read(self.record(name, recipe_hash)).ok()?).ok()?;
        if record.digest.len() != 64 || !record.digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let path = self.image(&record.digest);
        let metadata = fs::symlink_metadata(&path).ok()?;
        (metadata.is_file() && metadata.len() == record.size_bytes).then_some(BaseImage {
            name: name.to_owned(),
            digest: record.digest,
            size_bytes: record.size_bytes,
            path,
        })
    }

    /// The file whose lock says who builds this template.
    pub fn lock_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.directory.join("templates").join(format!("{name}.lock")))
    }

    /// Where the holder of the lock builds.
    pub fn building(&self, name: &str) -> PathBuf {
        self.directory.join("building").join(name)
    }

    /// Takes a finished image in: its digest becomes its name, then the record is written.
    pub fn adopt(&self, name: &str, recipe_hash: &str, built: &Path) -> io::Result<BaseImage> {
        let mut file = File::open(built)?;
        let mut hasher = Sha256::new();
        let size_bytes = io::copy(&mut file, &mut hasher)?;
        let digest = hex::encode(hasher.finalize());
        fs::set_permissions(built, fs::Permissions::from_mode(0o600))?;
        file.sync_all()?;
        let path = self.image(&digest);
        fs::rename(built, &path)?;
        sync_directory(&self.directory.join("images"))?;

        let record = Record { digest, size_bytes };
        let target = self.record(name, recipe_hash);
        let draft = target.with_extension("json.new");
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
        out.write_all(&serde_json::to_vec_pretty(&record)?)?;
        out.sync_all()?;
        fs::rename(&draft, &target)?;
        sync_directory(&self.directory.join("templates"))?;
        Ok(BaseImage { name: name.to_owned(), digest: record.digest, size_bytes, path })
    }

    fn record(&self, name: &str, recipe_hash: &str) -> PathBuf {
        self.directory.join("templates").join(format!("{name}-{recipe_hash}.json"))
    }

    fn image(&self, digest: &str) -> PathBuf {
        self.directory.join("images").join(format!("{digest}.erofs"))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
