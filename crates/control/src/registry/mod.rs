//! Container images that teams push to this server: what `docker push` needs of a registry, for builds to begin with.
//!
//! Each team has repositories of its own, whatever they are called; nobody else's. A blob comes in parts, each of which is
//! an object of its own ([`uploads`]); the blob's row names them once its digest was checked, and nothing is copied. [`names`]
//! reads paths, [`spool`] counts what is coming in, [`manifest`] reads what a manifest names, [`images`] keeps manifests and tags, [`pushed`] hands an image to the
//! puller of builds, [`store`] has the SQL, [`garbage`] takes away what nobody names. It is a way in and no archive:
//! images that nobody used for a month go. Neighbours: `http/registry` (the protocol), `oci` (images of other registries).

mod garbage;
mod images;
pub mod manifest;
pub mod names;
mod pushed;
mod spool;
mod store;
mod uploads;

use std::io;
use std::time::Duration;

use atoll_model::TeamId;

pub use images::Stored;
pub use pushed::Pushed;
use spool::Spool;
pub use uploads::{Blob, Upload};

use crate::clock::Clock;
use crate::db::{Db, DbError};
use crate::objects::{ObjectError, Objects};
use crate::shares::Shares;

/// Bytes of one blob.
pub const MAX_BLOB: u64 = 16 << 30;
/// Bytes of all that a team has here, uploads under way with it.
const MAX_TEAM: u64 = 64 << 30;
/// Parts of one blob: clients send one or a few.
const MAX_PARTS: usize = 1000;
/// Of one team.
const MAX_UPLOADS: i64 = 200;
const MAX_BLOBS: i64 = 20_000;
const MAX_MANIFESTS: i64 = 10_000;
/// Bytes of all manifests of a team, which lie in the database.
const MAX_MANIFESTS_BYTES: i64 = 256 << 20;
const MAX_TAGS: i64 = 10_000;
/// Bytes of a manifest.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Uploads that data comes in for at once, at this replica; a team has half of them.
const RECEIVED_AT_ONCE: usize = 64;
/// An upload that nothing came in for is over.
const UPLOAD_KEPT: Duration = Duration::from_secs(6 * 3600);
/// And makes room after this, when the team has as many as it may have.
const UPLOAD_LEFT: Duration = Duration::from_secs(15 * 60);
/// What no tag leads to: a blob comes before the manifest that names it, a manifest before its list.
const LOOSE_KEPT: Duration = Duration::from_secs(24 * 3600);
/// What has a tag and was neither pushed nor pulled nor built from.
const UNUSED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why it could not be done. What it says is for whoever pushes.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("there is no such blob")]
    NoBlob,
    #[error("there is no such upload: it was finished, or nothing came for six hours")]
    NoUpload,
    #[error("there is no such manifest")]
    NoManifest,
    #[error("a list names this manifest: delete the list first")]
    OnAList,
    #[error("the manifest names {0}, which was not pushed")]
    Unpushed(String),
    #[error("the manifest is not valid: {0}")]
    BadManifest(String),
    #[error("a manifest may have {MAX_MANIFEST} bytes")]
    LargeManifest,
    #[error("`{0}` is no digest of SHA-256")]
    BadDigest(String),
    #[error("what came has the digest {found}")]
    WrongDigest { found: String },
    /// There are so many bytes of it.
    #[error("the upload has {size} bytes by now, and goes on from there")]
    OutOfOrder { size: u64 },
    #[error("the upload broke off")]
    BrokeOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a blob may have {MAX_BLOB} bytes, in {MAX_PARTS} parts")]
    TooLarge,
    #[error(
        "the team's images may have {MAX_TEAM} bytes in all: delete some, or wait until those that nobody uses are gone"
    )]
    TeamIsFull,
    #[error("the team has {limit} {what} already")]
    TooMany { what: &'static str, limit: i64 },
    #[error("too many uploads are under way; try again in a moment")]
    Busy,
    #[error("there is no room for it on the server's disk at the moment")]
    NoRoom,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("writing what was uploaded")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    db: Db,
    clock: Clock,
    objects: Objects,
    receiving: Shares<TeamId>,
    spool: Spool,
}

impl Registry {
    #[must_use]
    pub fn new(db: Db, clock: Clock, objects: Objects) -> Self {
        Self { db, clock, objects, receiving: Shares::halved(RECEIVED_AT_ONCE), spool: Spool::default() }
    }
}
