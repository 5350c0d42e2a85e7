//! What a manifest names. Two families of formats, Docker's and OCI's, in each a manifest of one image and a list of
//! manifests; all else is refused.

use serde::Deserialize;

use super::{MAX_MANIFEST, RegistryError};
use crate::oci::is_digest;

/// What one manifest may name.
const MAX_NAMED: usize = 1000;

const IMAGES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const LISTS: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// A manifest that may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: String,
    /// As it came.
    pub content: String,
    /// Digests of its configuration and its layers.
    pub blobs: Vec<String>,
    /// Digests of the manifests that it lists.
    pub manifests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    config: Option<Descriptor>,
    // Some clients write none as null.
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    media_type: Option<String>,
    /// Where it is to be had instead: such a layer is never pushed.
    urls: Option<Vec<String>>,
}

impl Descriptor {
    /// Of what a list names: the caches of some builders list layers.
    fn is_manifest(&self) -> bool {
        let kind = self.media_type.as_deref();
        kind.is_none_or(|kind| IMAGES.contains(&kind) || LISTS.contains(&kind))
    }
}

fn bad<T>(problem: impl Into<String>) -> Result<T, RegistryError> {
    Err(RegistryError::BadManifest(problem.into()))
}

impl Manifest {
    /// `media_type` is what the client calls it.
    ///
    /// # Errors
    /// [`RegistryError::BadManifest`], [`RegistryError::LargeManifest`].
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, RegistryError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(RegistryError::LargeManifest);
        }
        let Ok(content) = std::str::from_utf8(bytes) else { return bad("it is no text") };
        let document: Document = match serde_json::from_str(content) {
            Ok(document) => document,
            Err(error) => return bad(error.to_string()),
        };
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let media_type =
            if media_type.is_empty() { document.media_type.as_deref().unwrap_or_default() } else { media_type };
        if document.media_type.as_deref().is_some_and(|own| own != media_type) {
            return bad("it says another media type of itself than the request does");
        }
        let (layers, listed) = (document.layers.unwrap_or_default(), document.manifests.unwrap_or_default());
        let (blobs, manifests) = if IMAGES.contains(&media_type) {
            let Some(config) = document.config else { return bad("it names no configuration") };
            if !listed.is_empty() {
                return bad("it is an image and a list at once");
            }
            (std::iter::once(config).chain(layers).collect(), Vec::new())
        } else if LISTS.contains(&media_type) {
            if document.config.is_some() || !layers.is_empty() {
                return bad("it is an image and a list at once");
            }
            listed.into_iter().partition(|it| !it.is_manifest())
        } else {
            return bad("its media type is none of an image or a list of images, by Docker or OCI");
        };
        Ok(Self {
            media_type: media_type.to_owned(),
            content: content.to_owned(),
            blobs: digests(blobs)?,
            manifests: digests(manifests)?,
        })
    }
}

/// Each once.
fn digests(named: Vec<Descriptor>) -> Result<Vec<String>, RegistryError> {
    if named.len() > MAX_NAMED {
        return bad(format!("it names more than {MAX_NAMED} things"));
    }
    let mut found: Vec<_> =
        named.into_iter().filter(|it| it.urls.as_ref().is_none_or(Vec::is_empty)).map(|it| it.digest).collect();
    if !found.iter().all(|digest| is_digest(digest)) {
        return bad("a digest in it is not one of SHA-256");
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_names_its_configuration_and_layers_and_a_list_its_manifests() {
        let digest = |of: &str| format!("sha256:{}", of.repeat(64));
        let layer = |of: &str| json!({ "digest": digest(of), "size": 1, "mediaType": "x" });
        let image = json!({ "config": layer("c"), "layers": [layer("b"), layer("a"), layer("b"),
            { "digest": digest("f"), "urls": ["https://elsewhere.example/f"] }] });
        for kind in IMAGES {
            let read = Manifest::parse(kind, image.to_string().as_bytes()).unwrap();
            assert_eq!((read.blobs, read.manifests), (vec![digest("a"), digest("b"), digest("c")], vec![]));
            assert_eq!(read.content, image.to_string());
        }
        let list = json!({ "mediaType": LISTS[0], "manifests": [{ "digest": digest("d"), "size": 1 }] }).to_string();
        let read = Manifest::parse("", list.as_bytes()).unwrap();
        assert_eq!((read.blobs, read.manifests, read.media_type.as_str()), (vec![], vec![digest("d")], LISTS[0]));
        // What caches of builders are, and what is none.
        let kind = |of: &str, kind: &str| json!({ "digest": digest(of), "mediaType": kind, "urls": null });
        let cache = json!({ "layers": null, "manifests": [kind("a", "application/vnd.oci.image.layer.v1.tar+gzip"),
            kind("b", IMAGES[0])] });
        let read = Manifest::parse(LISTS[0], cache.to_string().as_bytes()).unwrap();
        assert_eq!((read.blobs, read.manifests), (vec![digest("a")], vec![digest("b")]));
        let all = json!({ "config": layer("c"), "manifests": [layer("d")] }).to_string();
        for (kind, text) in [
            (IMAGES[0], "{}"),
            (IMAGES[0], "no json"),
            (LISTS[1], &list),
            ("application/json", "{}"),
            (IMAGES[0], r#"{"config":{"digest":"sha256:0"}}"#),
            (IMAGES[0], &all),
            (LISTS[0], &all),
        ] {
            assert!(Manifest::parse(kind, text.as_bytes()).is_err(), "{kind} {text}");
        }
        assert!(Manifest::parse(IMAGES[0], b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_make_it_panic_never(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            digest in "(sha256:)?[0-9a-f]{60,68}",
            kind in 0..4_usize,
        ) {
            let kinds: Vec<_> = IMAGES.into_iter().chain(LISTS).collect();
            let _ = Manifest::parse(kinds[kind], &bytes);
            let text = json!({ "config": { "digest": digest }, "layers": [{ "digest": digest }] }).to_string();
            if let Ok(read) = Manifest::parse(IMAGES[0], text.as_bytes()) {
                prop_assert!(is_digest(&digest));
                prop_assert_eq!(read.blobs, vec![digest]);
            }
        }
    }
}
