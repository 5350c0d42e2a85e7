//! What is pulled, and who gets what was pulled before: from a registry of these tests, over both databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_model::TeamId;
use axum::Router;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Login, OciError, Puller, Reference, Registries};
use crate::clock::Clock;
use crate::db::testing::{TestDb, databases};
use crate::objects::Objects;
use crate::testing::START;

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn login(username: &str) -> Login {
    Login { username: username.to_owned(), password: "secret".into() }
}

/// An archive with nothing in it.
const EMPTY: [u8; 1024] = [0; 1024];

/// A registry with one image. Its manifest is there for everybody, its blobs for `owner` alone.
struct Private {
    at: String,
    /// How often a blob was given out.
    given: Arc<AtomicUsize>,
}

impl Private {
    async fn start() -> Self {
        Self::with_layer(EMPTY.to_vec(), "application/vnd.oci.image.layer.v1.tar").await
    }

    /// With the one layer [`EMPTY`], packed as this media type says.
    async fn with_layer(layer: Vec<u8>, kind: &str) -> Self {
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": [digest(&EMPTY)] } }).to_string().into_bytes();
        let named =
            |bytes: &[u8], kind: &str| json!({ "digest": digest(bytes), "size": bytes.len(), "mediaType": kind });
        let manifest = json!({ "schemaVersion": 2,
            "config": named(&config, "application/vnd.oci.image.config.v1+json"), "layers": [named(&layer, kind)] })
        .to_string();
        let blobs = BTreeMap::from([(digest(&layer), layer), (digest(&config), config)]);
        let given = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given);
        let who = |name: &str| format!("Basic {}", STANDARD.encode(format!("{name}:secret")));
        let (owner, stranger) = (who("owner"), who("stranger"));
        let answer = async move |uri: Uri, headers: HeaderMap| -> Response {
            let Some((_, wanted)) = uri.path().split_once("/blobs/") else { return manifest.into_response() };
            match headers.get(AUTHORIZATION) {
                Some(known) if *known == owner => {
                    count.fetch_add(1, Ordering::SeqCst);
                    blobs[wanted].clone().into_response()
                }
                Some(known) if *known == stranger => StatusCode::FORBIDDEN.into_response(),
                _ => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Basic realm=\"x\"")]).into_response(),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { at, given }
    }

    fn image(&self) -> Reference {
        format!("{}/some/image:1", self.at).parse().unwrap()
    }

    /// How many blobs were given out since the last question.
    fn given(&self) -> usize {
        self.given.swap(0, Ordering::SeqCst)
    }
}

fn puller(test: &TestDb) -> Puller {
    Puller {
        db: test.db.clone(),
        clock: Clock::manual(START),
        objects: Objects::open(test.dir.path()).unwrap(),
        registries: Registries::new(vec!["127.0.0.1".to_owned()]).unwrap(),
    }
}

#[tokio::test]
async fn who_may_not_have_a_private_images_layers_does_not_have_them_from_another_teams_pull() {
    for test in databases().await {
        let registry = Private::start().await;
        let (reference, puller) = (registry.image(), puller(&test));
        let (ours, theirs) = (TeamId::new(), TeamId::new());
        let pull =
            async |team: &TeamId, login: Option<Login>| puller.pull(&reference, (team, login.as_ref()), &|_| {}).await;

        let pulled = pull(&ours, Some(login("owner"))).await.unwrap();
        assert_eq!(registry.given(), 2, "its configuration and its layer");
        assert_eq!(pull(&ours, Some(login("owner"))).await.unwrap().digest, pulled.digest);
        assert_eq!(registry.given(), 0, "it was pulled before");

        // Its manifest is known to everybody. That opens nothing.
        let refused = pull(&theirs, Some(login("stranger"))).await.unwrap_err();
        assert!(matches!(refused, OciError::Refused { status: 403, .. }), "{refused}");
        let refused = pull(&theirs, None).await.unwrap_err();
        assert!(matches!(refused, OciError::Registry { .. }), "{refused}");
        assert!(pull(&ours, None).await.is_err(), "nor is it there for its own team without the login");
        assert_eq!(pull(&theirs, Some(login("owner"))).await.unwrap().digest, pulled.digest);
        assert_eq!(registry.given(), 2, "whoever may have it fetches it");
    }
}

#[tokio::test]
async fn an_image_is_the_same_whatever_its_layers_are_compressed_with() {
    for test in databases().await {
        let (puller, team) = (puller(&test), TeamId::new());
        let pull = async |layer: Vec<u8>, kind: &str| {
            let registry = Private::with_layer(layer, &format!("application/vnd.{kind}")).await;
            puller.pull(&registry.image(), (&team, Some(&login("owner"))), &|_| {}).await
        };
        let zstd = || zstd::encode_all(EMPTY.as_slice(), 3).unwrap();
        let plain = pull(EMPTY.to_vec(), "oci.image.layer.v1.tar").await.unwrap();
        for kind in ["oci.image.layer.v1.tar+zstd", "docker.image.rootfs.diff.tar.zstd"] {
            assert_eq!(pull(zstd(), kind).await.unwrap().digest, plain.digest, "{kind}");
        }
        // The right name and digest on the way, and something else inside.
        let other = zstd::encode_all([0; 2048].as_slice(), 3).unwrap();
        let refused = pull(other, "oci.image.layer.v1.tar+zstd").await.unwrap_err().to_string();
        assert!(refused.contains("has the digest"), "{refused}");
        let refused = pull(zstd(), "oci.image.layer.v1.tar+xz").await.unwrap_err().to_string();
        assert!(refused.contains("of the kind `application/vnd.oci.image.layer.v1.tar+xz`"), "{refused}");
    }
}
