//! Putting an image together: manifest, configuration, layers, one tree, one erofs image.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use atoll_image::{Kind, Limits, Source, Spool, Tree, write};
use atoll_model::TeamId;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use tempfile::NamedTempFile;

use super::Reference;
use super::layer::{self, Compression};
use super::origin::{Origin, small_blob};
use super::reference::is_digest;
use super::registry::{Login, OciError, Registries};
use crate::clock::Clock;
use crate::db::{Db, During, on};
use crate::objects::{ObjectError, Objects};

const MAX_LAYERS: usize = 128;
/// Compressed, each.
const MAX_LAYER_BYTES: u64 = 16 << 30;
/// How long a download may stand still.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);

/// What an image says of the programs in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub user: String,
    pub workdir: String,
    pub env: BTreeMap<String, String>,
}

/// An image in the object store.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub digest: String,
    pub size_bytes: i64,
    pub config: Config,
}

/// Pulls images. Cheap to clone.
#[derive(Clone)]
pub struct Puller {
    pub db: Db,
    pub clock: Clock,
    pub objects: Objects,
    pub registries: Registries,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest, or a list of them.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ImageConfig {
    config: Option<Settings>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    user: Option<String>,
    working_dir: Option<String>,
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

pub(super) fn invalid(problem: impl Into<String>) -> OciError {
    OciError::Invalid(problem.into())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Puller {
    /// The image, pulled if it is not here. What a login was needed for is here for that team alone: others may know its
    /// manifest and have none of its layers. `say` gets a line for people at each step.
    pub async fn pull(
        &self,
        reference: &Reference,
        (team, login): (&TeamId, Option<&Login>),
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Pulled, OciError> {
        let mut session = self.registries.session(reference, login);
        let of = login.map(|_| team);
        self.pull_from(&mut session, of, &reference.version, &reference.to_string(), say).await
    }

    /// The same from wherever it is; `of` a team, if it is here for nobody else. `name` is for people.
    pub async fn pull_from(
        &self,
        origin: &mut dyn Origin,
        of: Option<&TeamId>,
        version: &str,
        name: &str,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Pulled, OciError> {
        let (mut bytes, mut digest) = origin.manifest(version).await?;
        let mut manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if !manifest.manifests.is_empty() {
            let ours = |it: &&Descriptor| {
                it.platform.as_ref().is_some_and(|at| at.os == "linux" && at.architecture == architecture())
            };
            let wanted = manifest.manifests.iter().find(ours);
            let wanted = wanted.ok_or_else(|| invalid(format!("there is none for linux/{}", architecture())))?;
            let wanted = checked_digest(&wanted.digest)?.to_owned();
            (bytes, digest) = origin.manifest(&wanted).await?;
            manifest = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        }
        say(format!("{name} is {digest}"));
        let known_as = of.map_or_else(|| digest.clone(), |team| format!("{team}/{digest}"));
        if let Some(pulled) = self.known(&known_as).await? {
            say("it was pulled before".to_owned());
            return Ok(pulled);
        }
        let (draft, pulled) = self.assemble(origin, &manifest, say).await?;
        // Named first: from then on nobody takes the object away.
        self.note(&known_as, &pulled).await?;
        self.objects.import(draft.path(), &pulled.digest).await?;
        Ok(pulled)
    }

    async fn known(&self, manifest: &str) -> Result<Option<Pulled>, OciError> {
        let row: Option<(String, i64, Json<Config>)> = on!(write & self.db, |c| sqlx::query_as(
            "UPDATE pulled_images SET used_at = $2 WHERE manifest = $1 RETURNING digest, size_bytes, config"
        )
        .bind(manifest)
        .bind(self.clock.now())
        .fetch_optional(c)
        .await)
        .during("look for a pulled image")?;
        let Some((digest, size_bytes, Json(config))) = row else { return Ok(None) };
        Ok(self.objects.has(&digest).await?.then_some(Pulled { digest, size_bytes, config }))
    }

    async fn note(&self, manifest: &str, pulled: &Pulled) -> Result<(), OciError> {
        on!(write & self.db, |c| sqlx::query(
            "INSERT INTO pulled_images (manifest, digest, size_bytes, config, used_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (manifest) DO UPDATE SET digest = excluded.digest, size_bytes = excluded.size_bytes,
             config = excluded.config, used_at = excluded.used_at"
        )
        .bind(manifest)
        .bind(&pulled.digest)
        .bind(pulled.size_bytes)
        .bind(Json(&pulled.config))
        .bind(self.clock.now())
        .execute(c)
        .await
        .map(|_| ()))
        .during("note a pulled image")?;
        Ok(())
    }

    async fn assemble(
        &self,
        origin: &mut dyn Origin,
        manifest: &Manifest,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(NamedTempFile, Pulled), OciError> {
        let config = manifest.config.as_ref().ok_or_else(|| invalid("it has no configuration"))?;
        let config = small_blob(origin, checked_digest(&config.digest)?).await?;
        let config: ImageConfig = serde_json::from_slice(&config).map_err(|error| invalid(error.to_string()))?;
        let diff_ids = config.rootfs.map(|it| it.diff_ids).unwrap_or_default();
        if manifest.layers.is_empty() || manifest.layers.len() > MAX_LAYERS || diff_ids.len() != manifest.layers.len() {
            return Err(invalid(format!("it must have 1 to {MAX_LAYERS} layers, as many as its configuration names")));
        }
        let mut state = (Tree::new(Limits::default()), Spool::create_in(self.objects.folder())?);
        for (number, (layer, diff_id)) in manifest.layers.iter().zip(&diff_ids).enumerate() {
            let megabytes = layer.size as f64 / 1e6;
            say(format!("layer {} of {}: {megabytes:.1} MB", number + 1, manifest.layers.len()));
            let kind = &layer.media_type;
            let compression = Compression::of(kind);
            let compression =
                compression.ok_or_else(|| invalid(format!("a layer of the kind `{kind}` is not supported")))?;
            let file = self.download(origin, layer).await?;
            let wanted = checked_digest(diff_id)?.to_owned();
            let (mut tree, mut spool) = state;
            // What runs on a thread of its own ends when nobody waits for it any more.
            let wanted_still = Arc::new(());
            let still_wanted = Arc::downgrade(&wanted_still);
            let applying = tokio::task::spawn_blocking(move || {
                let file = file.reopen().map_err(|error| ObjectError::other("reading a layer", error))?;
                let place = number as u32 + 1;
                let found = layer::apply(&mut tree, &mut spool, file, compression, place, still_wanted)?;
                if found != wanted {
                    return Err(invalid(format!("the layer {wanted} has the digest {found}")));
                }
                Ok((tree, spool))
            });
            state = applying.await.map_err(|error| ObjectError::other("reading a layer", error))??;
            drop(wanted_still);
        }
        say("packing the image".to_owned());
        let draft = self.objects.temporary()?;
        let packing = tokio::task::spawn_blocking(move || {
            let (tree, mut spool) = state;
            let settings = settings(&tree, &mut spool, config.config);
            let mut file = draft.reopen().map_err(|error| ObjectError::other("packing an image", error))?;
            let written = write(&tree, &mut spool, &mut file)?;
            Ok::<_, OciError>((draft, written, settings))
        });
        let (draft, written, config) =
            packing.await.map_err(|error| ObjectError::other("packing an image", error))??;
        let size_bytes = i64::try_from(written.size_bytes).unwrap_or(i64::MAX);
        Ok((draft, Pulled { digest: written.digest, size_bytes, config }))
    }

    /// A layer as it comes, checked.
    async fn download(&self, origin: &mut dyn Origin, layer: &Descriptor) -> Result<NamedTempFile, OciError> {
        let digest = checked_digest(&layer.digest)?;
        if layer.size > MAX_LAYER_BYTES {
            return Err(invalid(format!("a layer has more than {MAX_LAYER_BYTES} bytes")));
        }
        let mut body = origin.blob(digest).await?;
        let (mut file, mut hasher, mut length) = (self.objects.temporary()?, Sha256::new(), 0_u64);
        loop {
            let chunk = tokio::time::timeout(STALL, body.try_next()).await;
            let chunk = chunk.map_err(|_| invalid(format!("the layer {digest} stopped in its middle")))?;
            let Some(chunk) = chunk? else { break };
            length += chunk.len() as u64;
            if length > layer.size.max(1) {
                return Err(invalid(format!(
                    "the layer {digest} is longer than the {} bytes it should have",
                    layer.size
                )));
            }
            let writing = tokio::task::spawn_blocking(move || {
                hasher.update(&chunk);
                io::Write::write_all(file.as_file_mut(), &chunk).map(|()| (file, hasher))
            });
            let written = writing.await.map_err(|error| ObjectError::other("storing a layer", error))?;
            (file, hasher) = written.map_err(|error| ObjectError::other("storing a layer", error))?;
        }
        let found = format!("sha256:{}", hex::encode(hasher.finalize()));
        if found == digest { Ok(file) } else { Err(invalid(format!("the layer {digest} has the digest {found}"))) }
    }
}

fn checked_digest(digest: &str) -> Result<&str, OciError> {
    if is_digest(digest) { Ok(digest) } else { Err(invalid("a digest in it is not one of SHA-256")) }
}

/// The image's settings, with a user that has a name.
fn settings(tree: &Tree, spool: &mut Spool, given: Option<Settings>) -> Config {
    let (user, workdir, env) = given.map_or_else(Default::default, |it| {
        (it.user.unwrap_or_default(), it.working_dir.unwrap_or_default(), it.env.unwrap_or_default())
    });
    let name = user.split(':').next().unwrap_or_default();
    let user = match name.parse::<u32>() {
        Ok(uid) => user_of(&passwd(tree, spool), uid).unwrap_or_else(|| "root".to_owned()),
        Err(_) if name.is_empty() => "root".to_owned(),
        Err(_) => name.to_owned(),
    };
    let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let env = env.into_iter().filter_map(pair).filter(|(name, _)| !name.is_empty()).collect();
    Config { user, workdir: if workdir.starts_with('/') { workdir } else { "/".to_owned() }, env }
}

fn user_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn passwd(tree: &Tree, spool: &mut Spool) -> String {
    let Some(index) = tree.find("etc/passwd") else { return String::new() };
    match &tree.inode(index).kind {
        Kind::File(content) if content.size < 1 << 20 => match content.source {
            Source::Spool(start) => spool.text(start, content.size).unwrap_or_default(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}
