//! A hint that something was written by this process. Whoever waits for changes looks again when it is given; what
//! changed is in the tables, not here. It is one for the process: a needless look at another database costs nothing.

use std::sync::LazyLock;

use tokio::sync::watch;

static WRITES: LazyLock<watch::Sender<()>> = LazyLock::new(|| watch::Sender::new(()));

/// To be called after a write is visible to others. `on!(write ...)` and `Tx::commit` do it.
pub fn wrote() {
    WRITES.send_replace(());
}

/// Changes with every write of this process.
#[must_use]
pub fn writes() -> watch::Receiver<()> {
    WRITES.subscribe()
}
