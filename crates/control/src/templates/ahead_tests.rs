//! The template that ships, built before anybody asks: with recipes that take a moment, and a load that the tests say.

use std::fs;
use std::path::Path;
use std::time::Duration;

use atoll_model::TeamId;
use tokio_util::task::TaskTracker;

use super::ahead::{Pace, load_of, run};
use super::shipped::{Shipped, ShippedError, ShippedRecipes};
use super::{Recipe, store};
use crate::clock::Clock;
use crate::db::Db;
use crate::db::testing::databases;
use crate::objects::Objects;

#[test]
fn the_load_of_the_last_minute_is_the_first_number() {
    assert_eq!(load_of("0.52 1.20 2.00 3/410 991\n"), Some(0.52));
    assert_eq!((load_of(""), load_of("x y")), (None, None));
}

/// A replica with an empty cache, whose code interpreter is made by this script.
fn replica(db: &Db, folder: &Path, script: &str) -> Shipped {
    let recipe =
        |name: &str, script: &str| Recipe::new(name, [("build.sh".to_owned(), script.as_bytes().to_vec())]).unwrap();
    let recipes = ShippedRecipes {
        base: recipe("base", "printf ground > \"$1\""),
        code_interpreter: recipe("code-interpreter", script),
    };
    let objects = Objects::open(&folder.join("data")).unwrap();
    let tasks = (TaskTracker::new(), tokio_util::sync::CancellationToken::new());
    Shipped::new((db.clone(), Clock::system(), objects), tasks, folder.join("cache"), Some(recipes))
}

fn pace(folder: &Path, load: &str) -> Pace {
    fs::write(folder.join("load"), load).unwrap();
    let moment = Duration::from_millis(10);
    Pace { look: moment, quiet_looks: 3, first_pause: moment, last_pause: moment * 4, load: folder.join("load") }
}

const IDLE: &str = "0.00 0.00 0.00 1/100 1";
const BUSY: &str = "900.0 0.00 0.00 1/100 1";

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn it_is_built_when_nothing_else_is_to_do_and_the_first_create_finds_it() {
    for test in databases().await {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let script =
            format!("echo run >> {}; cat \"$3\" > \"$1\"; printf +interpreter >> \"$1\"", at.join("runs").display());
        let shipped = replica(&test.db, at, &script);
        shipped.announce().await.unwrap();
        let pace = pace(at, BUSY);
        let ahead = run(&shipped, "one", &pace);
        let beside = async {
            // Not beside work: it has looked often enough by now.
            tokio::time::sleep(pace.look * 20).await;
            assert!(!at.join("runs").exists(), "the machine has something else to do");
            fs::write(&pace.load, IDLE).unwrap();
        };
        tokio::join!(ahead, beside);
        let template = shipped.with_image("code-interpreter").await.unwrap().unwrap();
        let found = store::find(&test.db, "code-interpreter", &TeamId::new()).await.unwrap().unwrap();
        assert!(!found.digest.is_empty() && found.digest == template.digest);
        let image = fs::read(at.join("cache/images").join(format!("{}.erofs", found.digest))).unwrap();
        assert_eq!(image, b"ground+interpreter");
        // Another replica of this machine finds it there, and builds nothing.
        run(&replica(&test.db, at, &script), "two", &pace).await;
        assert_eq!(fs::read_to_string(at.join("runs")).unwrap(), "run\n");
    }
}

#[tokio::test]
async fn what_fails_is_tried_again() {
    for test in databases().await {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let runs = at.join("runs");
        let script = format!("echo run >> {0}; [ \"$(wc -l < {0})\" -gt 2 ]; printf image > \"$1\"", runs.display());
        let shipped = replica(&test.db, at, &format!("set -e; {script}"));
        shipped.announce().await.unwrap();
        run(&shipped, "one", &pace(at, IDLE)).await;
        assert_eq!(fs::read_to_string(&runs).unwrap(), "run\n".repeat(3));
        assert!(shipped.with_image("code-interpreter").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn who_asks_for_it_meanwhile_is_told_and_has_it_hurry() {
    for test in databases().await {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (nice, go) = (at.join("nice"), at.join("go"));
        let script = format!(
            "nice > {nice}; until [ -e {go} ]; do sleep .01; done; nice >> {nice}; printf image > \"$1\"",
            nice = nice.display(),
            go = go.display(),
        );
        let shipped = replica(&test.db, at, &script);
        shipped.announce().await.unwrap();
        let pace = pace(at, IDLE);
        let asks = async {
            eventually("it is being built", async || fs::read_to_string(&nice).is_ok_and(|text| text.ends_with('\n')))
                .await;
            let told = shipped.with_image("code-interpreter").await.unwrap_err();
            assert!(matches!(told, ShippedError::BeingBuilt { .. }), "{told}");
            let hurries = async || {
                let groups = std::process::Command::new("ps").args(["-eo", "ni,args"]).output().unwrap();
                let text = String::from_utf8_lossy(&groups.stdout).into_owned();
                let ours: Vec<_> = text.lines().filter(|line| line.contains(&*at.to_string_lossy())).collect();
                !ours.is_empty() && ours.iter().all(|line| line.trim_start().starts_with("0 "))
            };
            eventually("it hurries", hurries).await;
            fs::write(&go, "").unwrap();
        };
        tokio::join!(run(&shipped, "one", &pace), asks);
        assert_eq!(fs::read_to_string(&nice).unwrap(), "19\n0\n");
    }
}
