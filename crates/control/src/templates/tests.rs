//! The cache and the rows. The builds here run small scripts of their own; the real recipe is built by the tests that
//! run the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use atoll_model::TeamId;

use super::*;
use crate::db::Millis;
use crate::db::testing::databases;

fn recipe(script: &str) -> Recipe {
    Recipe::new("base", [("build.sh".to_owned(), script.as_bytes().to_vec())]).unwrap()
}

fn quiet(_: &str) {}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_image_is_built_once_and_found_by_its_recipe_afterwards() {
    let cache = tempfile::tempdir().unwrap();
    let runs = cache.path().join("runs");
    let recipe = recipe(&format!("echo run >> {}; echo 'step: packing'; printf image > \"$1\"", runs.display()));
    let steps = Mutex::new(Vec::new());
    let first = ensure_base(cache.path(), &recipe, &|step| steps.lock().unwrap().push(step.to_owned())).await.unwrap();
    assert_eq!(first.digest, "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d");
    assert_eq!(first.size_bytes, 5);
    assert_eq!(fs::read(&first.path).unwrap(), b"image");
    assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(first.path, cache.path().join("images").join(format!("{}.erofs", first.digest)));
    assert_eq!(steps.into_inner().unwrap(), ["packing", "storing the image"]);
    assert_eq!(ensure_base(cache.path(), &recipe, &quiet).await.unwrap(), first);
    assert_eq!(fs::read_to_string(runs).unwrap(), "run\n");
    assert!(names(&cache.path().join("building")).is_empty());
}

#[tokio::test]
async fn many_at_once_make_one_build() {
    let cache = tempfile::tempdir().unwrap();
    let runs = cache.path().join("runs");
    let recipe = recipe(&format!("echo run >> {}; sleep 0.3; printf image > \"$1\"", runs.display()));
    let built = futures::future::join_all((0..8).map(|_| ensure_base(cache.path(), &recipe, &quiet))).await;
    for image in &built {
        assert_eq!(image.as_ref().unwrap(), built[0].as_ref().unwrap());
    }
    assert_eq!(fs::read_to_string(runs).unwrap(), "run\n");
}

#[tokio::test]
async fn a_cut_off_image_is_built_again() {
    let cache = tempfile::tempdir().unwrap();
    let recipe = recipe("printf image > \"$1\"");
    let image = ensure_base(cache.path(), &recipe, &quiet).await.unwrap();
    fs::write(&image.path, "ima").unwrap();
    assert_eq!(ensure_base(cache.path(), &recipe, &quiet).await.unwrap(), image);
    assert_eq!(fs::read(&image.path).unwrap(), b"image");
}

#[tokio::test]
async fn a_failed_build_says_where_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let recipe = recipe("echo 'step: downloading'; mkdir -p \"$2/half\"; echo 'no route to host' >&2; exit 7");
    let failed = ensure_base(cache.path(), &recipe, &quiet).await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, BaseError::Failed { .. }));
    for part in ["downloading", "no route to host", "exit status: 7", "ATOLL_DEBIAN_MIRROR"] {
        assert!(text.contains(part), "{part} is in {text}");
    }
    assert!(names(&cache.path().join("building")).is_empty());
    assert!(names(&cache.path().join("images")).is_empty());
}

#[tokio::test]
async fn what_a_killed_build_left_is_swept_by_the_next() {
    let cache = tempfile::tempdir().unwrap();
    let left = cache.path().join("building/base/work/root");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half"), "built").unwrap();
    let recipe = recipe("test ! -e \"$2\" && printf image > \"$1\"");
    ensure_base(cache.path(), &recipe, &quiet).await.unwrap();
    assert!(names(&cache.path().join("building")).is_empty());
}

#[tokio::test]
async fn a_dropped_build_ends_with_everything_it_started() {
    let cache = tempfile::tempdir().unwrap();
    let pid_file = cache.path().join("started");
    let script = format!("(sleep 600 & echo up > {}; wait)", pid_file.display());
    let recipe = recipe(&script);
    let build = tokio::spawn({
        let path = cache.path().to_owned();
        let recipe = recipe.clone();
        async move { ensure_base(&path, &recipe, &quiet).await }
    });
    while !pid_file.exists() {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    build.abort();
    assert!(build.await.unwrap_err().is_cancelled());
    // The lock is free only when the last process of the build is gone: it is every one's standard input.
    let next = self::recipe("printf image > \"$1\"");
    ensure_base(cache.path(), &next, &quiet).await.unwrap();
}

#[tokio::test]
async fn registering_base_again_keeps_its_id_and_follows_its_image() {
    for test in databases().await {
        let image = |digest: &str| BaseImage {
            name: "base".to_owned(),
            digest: digest.to_owned(),
            size_bytes: 7,
            path: "/nowhere".into(),
        };
        let first = store::register_base(&test.db, &image("a"), Millis(1)).await.unwrap();
        let same = store::register_base(&test.db, &image("a"), Millis(2)).await.unwrap();
        let other = store::register_base(&test.db, &image("b"), Millis(3)).await.unwrap();
        assert_eq!((&first.id, first.updated_at), (&same.id, same.updated_at));
        assert_eq!((&first.id, other.updated_at, other.digest.as_str()), (&other.id, Millis(3), "b"));
        let team = TeamId::new();
        for name in ["base", first.id.as_str()] {
            assert_eq!(store::find(&test.db, name, &team).await.unwrap().map(|found| found.digest), Some("b".into()));
        }
        assert!(store::find(&test.db, "missing", &team).await.unwrap().is_none());
        let listed = store::list(&test.db, "template", &team, None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|template| template.name.as_str()).collect::<Vec<_>>(), ["base"]);
        let after = (listed[0].created_at, listed[0].id.as_str());
        assert!(store::list(&test.db, "template", &team, Some(after), 10).await.unwrap().is_empty());
    }
}
