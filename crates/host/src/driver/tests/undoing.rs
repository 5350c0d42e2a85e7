//! A launch that fails at any step leaves nothing. Runs with `--features failpoints`.

use super::*;
use atoll_launch::wire::Stage;

/// Failpoints are of the whole process; the tests that set them take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const STEPS: [&str; 10] =
    ["begin", "request", "cgroups", "shared", "socket", "plan", "cloned", "mounts", "network", "ready"];

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_at_any_step_leaves_nothing() {
    let _turn = TURN.lock().await;
    let fixture = Fixture::new();
    let points = STEPS.iter().map(|step| (*step).to_owned());
    let points: Vec<_> = points.chain(Stage::CHILD.iter().map(|stage| stage.name().to_owned())).collect();
    for point in points {
        let name = format!("launch::{point}");
        fail::cfg(&name, "return").unwrap();
        let result = fixture.launch_spec(fixture.spec()).await;
        fail::cfg(&name, "off").unwrap();
        assert!(result.is_err(), "{point} did not fail");
        assert_eq!(fixture.leavings(), Vec::<String>::new(), "after {point}");
    }
    assert_eq!(fixture.launch().await.ok("echo fine"), "fine");
}
