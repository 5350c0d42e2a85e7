//! What the registry promises below its protocol: its limits, and what a full disk says. Over both databases.

use std::convert::Infallible;
use std::time::Duration;

use atoll_model::TeamId;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use super::uploads::TOUCHED_EVERY;
use super::{MAX_BLOBS, MAX_MANIFESTS_BYTES, MAX_UPLOADS, Registry, RegistryError, UPLOAD_LEFT};
use crate::audit::{Actor, Origin, Owner};
use crate::db::on;
use crate::db::testing::databases;
use crate::http::error::ApiError;
use crate::testing::{TestApp, app};

fn digest(bytes: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Uploads all of it at once.
async fn push(registry: &Registry, team: &TeamId, bytes: &'static str) -> Result<(), RegistryError> {
    let upload = registry.begin(team).await?;
    let body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(bytes.as_bytes()))]);
    let upload = registry.receive(upload, None, body).await?;
    registry.finish(&upload, &digest(bytes)).await
}

/// What a client is answered.
fn status<T>(refused: Result<T, RegistryError>) -> u16 {
    match refused {
        Ok(_) => 200,
        Err(error) => ApiError::from(error).status().as_u16(),
    }
}

async fn parts(test: &TestApp) -> usize {
    test.app.layers.objects().list_parts().await.unwrap().len()
}

#[tokio::test]
async fn a_full_disk_takes_no_part_and_says_so() {
    for db in databases().await {
        let test = app(db).await;
        let full = test.app.registry.on_a_full_disk();
        assert_eq!(status(push(&full, test.team(), "a layer").await), 507);
        assert_eq!(parts(&test).await, 0);
        push(&test.app.registry, test.team(), "a layer").await.unwrap();
        // What is there already takes no room.
        let blob = full.blob(test.team(), &digest("a layer")).await.unwrap();
        assert_eq!(blob.size_bytes, 7);
    }
}

#[tokio::test]
async fn a_team_has_so_many_blobs_and_no_more() {
    for db in databases().await {
        let test = app(db).await;
        let (registry, team) = (&test.app.registry, test.team());
        on!(write & test.app.db, |c| sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
             INSERT INTO registry_blobs (team_id, digest, parts, size_bytes, used_at)
             SELECT $1, 'sha256:' || CAST(i AS TEXT), '', 0, 0 FROM n"
        )
        .bind(team.as_str())
        .bind(MAX_BLOBS)
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        push(registry, team, "the last").await.unwrap();
        let refused = push(registry, team, "one too many").await;
        assert!(matches!(&refused, Err(RegistryError::TooMany { what: "blobs", .. })), "{refused:?}");
        assert_eq!(status(refused), 429);
        assert_eq!(status(registry.blob(team, &digest("one too many")).await), 404);
        push(registry, team, "the last").await.expect("it is there already");
        let other = TeamId::new();
        push(registry, &other, "one too many").await.expect("another team's are another's");
    }
}

#[tokio::test]
async fn a_teams_manifests_have_so_many_bytes_and_no_more() {
    for db in databases().await {
        let test = app(db).await;
        let (registry, team) = (&test.app.registry, test.team());
        push(registry, team, "{}").await.unwrap();
        let manifest = |version: u8| {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let content =
                json!({ "schemaVersion": version, "config": { "digest": digest("{}"), "size": 2 }, "layers": [] });
            Manifest::parse(kind, content.to_string().as_bytes()).unwrap()
        };
        let size = i64::try_from(manifest(2).content.len()).unwrap();
        on!(write & test.app.db, |c| sqlx::query(
            "INSERT INTO registry_manifests (team_id, repository, digest, media_type, content, size_bytes, used_at)
             VALUES ($1, 'other', 'sha256:0', '', '', $2, 0)"
        )
        .bind(team.as_str())
        .bind(MAX_MANIFESTS_BYTES - size)
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        let owner = Owner {
            team: team.clone(),
            team_is_byoc: false,
            team_network: None,
            actor: Actor::System,
            origin: Origin::default(),
        };
        let put = async |tag: &str, version: u8| registry.put_manifest(&owner, "app", tag, &manifest(version)).await;
        put("1", 2).await.expect("to the last byte");
        let refused = put("2", 3).await;
        assert!(matches!(&refused, Err(RegistryError::TooMany { what: "bytes of manifests", .. })), "{refused:?}");
        assert_eq!(status(refused), 429);
        assert_eq!(status(registry.manifest(team, "app", "2").await), 404);
        put("2", 2).await.expect("one that is there already has another tag");
    }
}

#[tokio::test]
async fn an_upload_that_bytes_come_for_is_not_one_that_was_left() {
    for db in databases().await {
        let test = app(db).await;
        let (registry, team, clock) = (&test.app.registry, test.team(), &test.clock);
        let slow = registry.begin(team).await.unwrap();
        for _ in 1..MAX_UPLOADS {
            registry.begin(team).await.unwrap();
        }
        let touched = async || registry.upload(team, &slow.id).await.expect("it is still there").touched_at;
        // Ten hours for one part. When it asks for the next piece, it has done what it does with the last one.
        let pieces = stream::iter(0..60_u32).then(async |number| {
            registry.tend().await.unwrap();
            if number == 2 {
                registry.begin(team).await.expect("others were left for a quarter of an hour");
            }
            let since = clock.now().since(touched().await);
            // Not more than once a minute.
            let expected = if number == 31 { TOUCHED_EVERY / 2 } else { Duration::ZERO };
            assert_eq!(since, expected, "before piece {number}");
            if number == 30 {
                clock.advance(TOUCHED_EVERY / 2);
                return Ok::<_, Infallible>(Bytes::from_static(b"at once "));
            }
            if number == 31 {
                clock.advance(TOUCHED_EVERY / 2);
                return Ok(Bytes::from_static(b"a minute later "));
            }
            clock.advance(Duration::from_secs(600));
            Ok(Bytes::from_static(b"slowly "))
        });
        let all = registry.receive(slow.clone(), None, pieces).await.unwrap();
        registry
            .finish(&all, &digest(&("slowly ".repeat(30) + "at once a minute later " + &"slowly ".repeat(28))))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_upload_is_not_left_either_while_its_part_is_being_stored() {
    for db in databases().await {
        let test = app(db).await;
        let (registry, team) = (&test.app.registry, test.team());
        let upload = registry.begin(team).await.unwrap();
        test.clock.advance(UPLOAD_LEFT);
        let stored = async {
            while registry.upload(team, &upload.id).await.unwrap().touched_at != test.clock.now() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut being_stored = upload.clone();
        let touched = registry.touching(&mut being_stored, stored);
        tokio::time::timeout(Duration::from_secs(60), touched).await.expect("nobody is at it");
    }
}
