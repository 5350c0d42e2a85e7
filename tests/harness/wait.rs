//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails. Generous: a loaded CI machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` gives something; fails the test with `what` when it doesn't in [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
