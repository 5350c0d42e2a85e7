//! Garbage is collected by reference and never while referenced: any order of what can happen, against the rows themselves.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use atoll_model::{LayerId, TeamId};
use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::store::{self, LayerRow};
use crate::db::testing::{TestDb, databases, sqlite};
use crate::db::{Text, on};
use crate::testing::{TestApp, app};

/// What happens, to one of a few images and holders.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A layer is made, packed as this image and stored, for this holder.
    Store {
        image: u8,
        holder: u8,
    },
    /// The same, and control dies before the object is there.
    NameOnly {
        image: u8,
        holder: u8,
    },
    /// The same, and control dies after the object is there and before a row names it.
    ObjectOnly {
        image: u8,
    },
    /// An image is pulled, or used again.
    Pull {
        image: u8,
    },
    Release {
        holder: u8,
    },
    /// A template is made of the image, or goes.
    Template {
        image: u8,
        holder: u8,
    },
    Hours {
        count: u16,
    },
    Collect,
    ForgetPulled,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let (image, holder) = (0..4_u8, 0..3_u8);
    prop_oneof![
        4 => (image.clone(), holder.clone()).prop_map(|(image, holder)| Step::Store { image, holder }),
        1 => (image.clone(), holder.clone()).prop_map(|(image, holder)| Step::NameOnly { image, holder }),
        1 => image.clone().prop_map(|image| Step::ObjectOnly { image }),
        2 => image.clone().prop_map(|image| Step::Pull { image }),
        4 => holder.clone().prop_map(|holder| Step::Release { holder }),
        1 => (image, holder).prop_map(|(image, holder)| Step::Template { image, holder }),
        3 => (1..200_u16).prop_map(|count| Step::Hours { count }),
        4 => Just(Step::Collect),
        2 => Just(Step::ForgetPulled),
        2 => Just(Step::Sweep),
    ]
}

fn content(image: u8) -> Vec<u8> {
    format!("image {image}").into_bytes()
}

fn digest(image: u8) -> String {
    hex::encode(Sha256::digest(content(image)))
}

struct World {
    test: TestApp,
    /// Images of which an object was once there: nothing else may be missing.
    stored: BTreeSet<u8>,
}

impl World {
    async fn new(database: TestDb) -> Self {
        Self { test: app(database).await, stored: BTreeSet::new() }
    }

    async fn put_object(&mut self, image: u8) {
        let objects = self.test.app.layers.objects();
        if !objects.has(&digest(image)).await.unwrap() {
            let mut draft = objects.draft(&digest(image), 1 << 20).unwrap();
            draft.write(Bytes::from(content(image))).await.unwrap();
            draft.finish().await.unwrap();
        }
        self.stored.insert(image);
    }

    async fn name(&self, image: u8, holder: u8) {
        let layer = LayerRow {
            id: Text(LayerId::new()),
            team_id: Text(TeamId::new()),
            host_id: None,
            byoc: false,
            digest: Some(digest(image)),
            stored: true,
            size_bytes: 1,
            memory: false,
            vm_version: None,
            lost: false,
            attempts: 0,
            problem: None,
            created_at: self.test.clock.now(),
        };
        let mut tx = self.test.app.db.begin().await.unwrap();
        store::insert(&mut tx, &layer).await.unwrap();
        store::refer(&mut tx, &format!("tpl-{holder}"), &[layer]).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn execute(&self, sql: &'static str, text: &str, number: i64) {
        let db = &self.test.app.db;
        on!(write db, |c| sqlx::query(sql).bind(text).bind(number).execute(c).await.map(|_| ())).unwrap();
    }

    async fn take(&mut self, step: Step) {
        let now = self.test.clock.now().0;
        match step {
            Step::Store { image, holder } => {
                self.name(image, holder).await;
                self.put_object(image).await;
            }
            Step::NameOnly { image, holder } => {
                self.name(image, holder).await;
                if !self.test.app.layers.objects().has(&digest(image)).await.unwrap() {
                    self.stored.remove(&image);
                }
            }
            Step::ObjectOnly { image } => self.put_object(image).await,
            Step::Pull { image } => {
                let sql = "INSERT INTO pulled_images (manifest, digest, size_bytes, config, used_at)
                           VALUES ($1, $1, 1, '{}', $2) ON CONFLICT (manifest) DO UPDATE SET used_at = excluded.used_at";
                self.execute(sql, &digest(image), now).await;
                self.put_object(image).await;
            }
            Step::Release { holder } => {
                let mut tx = self.test.app.db.begin().await.unwrap();
                store::release(&mut tx, &format!("tpl-{holder}")).await.unwrap();
                tx.commit().await.unwrap();
            }
            Step::Template { image, holder } => {
                if !self.test.app.layers.objects().has(&digest(image)).await.unwrap() {
                    return;
                }
                let sql = "UPDATE templates SET digest = $1 WHERE name = 'base' AND $2 >= 0";
                self.execute(sql, &digest(image), i64::from(holder)).await;
            }
            Step::Hours { count } => {
                let hours = Duration::from_secs(u64::from(count) * 3600);
                self.test.clock.advance(hours);
                // The store's own clock is the file system's.
                for entry in std::fs::read_dir(self.test.app.layers.objects().folder()).unwrap().flatten() {
                    let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
                    let written = file.metadata().unwrap().modified().unwrap_or(SystemTime::now());
                    file.set_modified(written - hours).unwrap();
                }
            }
            Step::Collect => {
                self.test.app.layers.collect().await.unwrap();
            }
            Step::ForgetPulled => {
                self.test.app.layers.forget_pulled().await.unwrap();
            }
            Step::Sweep => {
                self.test.app.layers.sweep().await.unwrap();
            }
        }
    }

    async fn is_named(&self, image: u8) -> bool {
        let mut tx = self.test.app.db.begin().await.unwrap();
        store::is_named(&mut tx, &digest(image)).await.unwrap()
    }

    /// Nothing that a row names is gone, if it was ever there.
    async fn check(&self, after: Step) {
        for image in self.stored.iter().copied() {
            let there = self.test.app.layers.objects().has(&digest(image)).await.unwrap();
            assert!(there || !self.is_named(image).await, "image {image} is named and gone, after {after:?}");
        }
    }

    /// With everybody gone and time passed, nothing is left.
    async fn end(&mut self) {
        for holder in 0..3 {
            self.take(Step::Release { holder }).await;
        }
        self.execute("UPDATE templates SET digest = $1 WHERE $2 >= 0", "none", 0).await;
        self.take(Step::Hours { count: 24 * 30 }).await;
        for step in [Step::Collect, Step::ForgetPulled, Step::Sweep] {
            self.take(step).await;
        }
        let left = self.test.app.layers.objects().list().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        let rows: (i64,) = on!(read & self.test.app.db, |c| sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM layers) + (SELECT COUNT(*) FROM pulled_images)"
        )
        .fetch_one(c)
        .await)
        .unwrap();
        assert_eq!(rows.0, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_that_is_named_goes_and_nothing_that_is_not_stays(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(sqlite().await).await;
            for step in steps {
                world.take(step).await;
                world.check(step).await;
            }
            world.end().await;
        });
    }
}

#[tokio::test]
async fn an_image_that_was_pulled_and_not_used_for_a_week_goes_with_its_object_on_both_databases() {
    for test in databases().await {
        let mut world = World::new(test).await;
        for image in [0, 1] {
            world.take(Step::Pull { image }).await;
        }
        world.take(Step::Store { image: 1, holder: 0 }).await;
        world.take(Step::Hours { count: 6 * 24 }).await;
        assert!(world.test.app.layers.forget_pulled().await.unwrap().is_empty());
        world.take(Step::Hours { count: 2 * 24 }).await;
        assert_eq!(world.test.app.layers.forget_pulled().await.unwrap(), [digest(0)]);
        assert!(!world.test.app.layers.objects().has(&digest(0)).await.unwrap());
        assert!(world.test.app.layers.objects().has(&digest(1)).await.unwrap(), "a snapshot stands on it");
        world.end().await;
    }
}
