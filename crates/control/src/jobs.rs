//! The background jobs. Each has an owner (the app's task tracker), ends with the shutdown, and leaves work that one
//! replica must do alone to a lease.

use std::time::Duration;

use crate::app::App;
use crate::db::{Millis, idempotency, leases};
use crate::layers::{Dead, LayerError};
use crate::{accounts, events, otlp, usage, webhooks};

const HOUSEKEEPING: Duration = Duration::from_secs(300);
/// What a crash has left in the object store is a day old before it goes.
const LOOK_THROUGH: Duration = Duration::from_secs(3600);
const LOOK_FOR_KEYS: Duration = Duration::from_secs(60);
const LEASE: &str = "housekeeping";
const LAYERS_EVERY: Duration = Duration::from_secs(30);
const LAYERS_LEASE: &str = "layers";
const STORING_LEASE: &str = "storing";
const MOVES_LEASE: &str = "moves";
/// A replica that dies is replaced after this.
const HELD: Duration = Duration::from_secs(12);
/// From a nudge to the look at what is to move: what comes at once is looked at once, and a host that is opened again at
/// once keeps everything.
const MOVES_SETTLE: Duration = Duration::from_secs(1);
/// The database may be away for a moment.
const AFTER_ERROR: Duration = Duration::from_secs(3);
/// How long events can be read from the outbox.
const EVENTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Starts all jobs.
pub fn spawn(app: &App) {
    let reaper = app.sandboxes.clone();
    app.tasks.spawn(reaper.run_reaper(app.replica.clone(), app.config.reaper_interval, app.shutdown.clone()));
    app.tasks.spawn(app.reconcile.monitor.clone().run(app.hosts.changes(), app.shutdown.clone()));
    app.tasks.spawn(app.feed.clone().run(app.db.clone(), app.shutdown.clone()));
    app.tasks.spawn(app.webhooks.clone().run(app.shutdown.clone()));
    app.tasks.spawn(app.db.clone().stay_written_out(app.shutdown.clone()));
    app.tasks.spawn(housekeeping(app.clone()));
    app.tasks.spawn(tend_layers(app.clone()));
    app.tasks.spawn(store_layers(app.clone()));
    app.tasks.spawn(move_paused(app.clone()));
    app.tasks.spawn(look_for_keys(app.clone()));
    app.tasks.spawn(otlp::run(app.clone()));
}

/// Takes away what nobody stands on; when nudged, and now and then.
async fn tend_layers(app: App) {
    // SQLite is one server's own: whatever was being built when it ended is nobody's now.
    if app.db.kind() == "sqlite"
        && let Err(error) = app.builds.tend(true).await
    {
        tracing::error!(error = &error as &dyn std::error::Error, "ending interrupted builds failed");
    }
    let mut again = LAYERS_EVERY;
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = app.layers.loose() => {}
            () = tokio::time::sleep(again) => {}
        }
        again = under_lease(&app, LAYERS_LEASE, tend_once(&app)).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "tending layers failed");
            LAYERS_EVERY
        });
    }
}

async fn tend_once(app: &App) -> Result<(), LayerError> {
    app.builds.tend(false).await?;
    for dead in app.layers.collect().await? {
        let (Dead::Layer(what) | Dead::Image(what)) = dead;
        app.reconcile.images.broadcast(&what).await?;
    }
    for digest in app.layers.forget_pulled().await? {
        app.reconcile.images.broadcast(&digest).await?;
    }
    Ok(())
}

/// Stores what snapshots and templates stand on; when nudged, and now and then. Beside [`tend_layers`], for it takes as
/// long as hosts need to pack.
async fn store_layers(app: App) {
    let mut again = LAYERS_EVERY;
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = app.layers.due() => {}
            () = tokio::time::sleep(again) => {}
        }
        let storing = async { app.layers.store_due().await.map(|_| ()) };
        let stored = tokio::select! {
            () = app.shutdown.cancelled() => return,
            stored = under_lease(&app, STORING_LEASE, storing) => stored,
        };
        again = stored.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "storing layers failed");
            LAYERS_EVERY
        });
    }
}

/// Moves what is paused away from hosts that are drained; when nudged, and now and then.
async fn move_paused(app: App) {
    let round = async || -> Result<(), LayerError> {
        while app.sandboxes.move_due(app.config.resume_on_reconnect).await? > 0 {}
        Ok(())
    };
    let mut again = LAYERS_EVERY;
    loop {
        let nudged = async {
            app.sandboxes.moves_due().await;
            tokio::time::sleep(MOVES_SETTLE).await;
        };
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = nudged => {}
            () = tokio::time::sleep(again) => {}
        }
        let moved = tokio::select! {
            () = app.shutdown.cancelled() => return,
            moved = under_lease(&app, MOVES_LEASE, round()) => moved,
        };
        // Those that could not move yet have a time at which each is tried again.
        let next = app.sandboxes.next_move().await.unwrap_or(None).unwrap_or(LAYERS_EVERY);
        again = moved.map_or_else(
            |error| {
                tracing::error!(error = &error as &dyn std::error::Error, "moving paused sandboxes failed");
                AFTER_ERROR
            },
            |again| again.min(next.max(MOVES_SETTLE)),
        );
    }
}

/// Does what one replica must do alone, if no other one is at it, and holds the lease for as long as that takes. When to
/// look again: soon where another is at it, for it may die.
async fn under_lease(
    app: &App,
    lease: &str,
    work: impl Future<Output = Result<(), LayerError>>,
) -> Result<Duration, LayerError> {
    let take = || leases::take(&app.db, lease, &app.replica, app.clock.now(), HELD);
    if take().await?.is_none() {
        return Ok(HELD / 4);
    }
    let hold = async {
        loop {
            tokio::time::sleep(HELD / 4).await;
            match take().await {
                Ok(Some(_)) => {}
                Ok(None) => return tracing::warn!(lease, "another replica took over what this one was at"),
                Err(error) => tracing::warn!(lease, %error, "a lease could not be renewed"),
            }
        }
    };
    tokio::select! {
        worked = work => worked?,
        () = hold => return Ok(HELD / 4),
    }
    leases::release(&app.db, lease, &app.replica).await?;
    Ok(LAYERS_EVERY)
}

/// Looks for signing keys that another replica, or `atoll server keys rotate`, has made.
async fn look_for_keys(app: App) {
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_FOR_KEYS) => {}
        }
        let users = app.accounts.tokens().refresh(app.clock.now()).await;
        if let Err(error) = users {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not look for new signing keys");
        }
        if let Err(error) = app.hosts.refresh_keys().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not look for new signing keys of hosts");
        }
    }
}

/// Removes what has outlived its use.
async fn housekeeping(app: App) {
    let mut looked = None;
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
        if let Err(error) = app.sandboxes.fleet().evict_gone().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not look for hosts that are gone");
        }
        if let Err(error) = clean(&app, &mut looked).await {
            tracing::error!(error = &error as &dyn std::error::Error, "housekeeping failed");
        }
    }
}

/// `looked`: when this replica last looked through the object store.
async fn clean(app: &App, looked: &mut Option<Millis>) -> Result<(), LayerError> {
    let now = app.clock.now();
    if leases::take(&app.db, LEASE, &app.replica, now, HOUSEKEEPING * 2).await?.is_none() {
        return Ok(());
    }
    idempotency::prune(&app.db, now).await?;
    accounts::prune(&app.db, now).await?;
    usage::roll(&app.db, now).await?;
    while webhooks::store::prune(&app.db, now - EVENTS_KEPT).await? > 0 {}
    while events::prune(&app.db, now - EVENTS_KEPT).await? > 0 {}
    if let Err(error) = app.registry.tend().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "tending the images that teams have pushed failed");
    }
    if looked.is_none_or(|looked| now.since(looked) >= LOOK_THROUGH) {
        look_through(app).await?;
        *looked = Some(now);
    }
    Ok(())
}

/// Finds in the object store what no row names. That costs a list of all objects each time, and a bucket's are paid for.
async fn look_through(app: &App) -> Result<(), LayerError> {
    app.layers.sweep().await?;
    if let Err(error) = app.builds.sweep_files().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "old files of builds could not be removed");
    }
    if let Err(error) = app.registry.sweep().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "what was left of pushed images could not be removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::db::testing::sqlite;
    use crate::testing::app;

    /// What no row names, of each kind, a day old.
    fn strays(folder: &std::path::Path) -> Vec<PathBuf> {
        let names =
            [format!("{}.erofs", "f".repeat(64)), "files-x-y.tar".to_owned(), format!("blob-{}-0-0", "0".repeat(32))];
        let day_old = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
        let make = |name: String| {
            let path = folder.join(name);
            std::fs::File::create(&path).unwrap().set_modified(day_old).unwrap();
            path
        };
        names.into_iter().map(make).collect()
    }

    #[tokio::test]
    async fn the_object_store_is_looked_through_hourly_and_no_oftener() {
        let test = app(sqlite().await).await;
        let folder = test.app.layers.objects().folder().to_owned();
        let mut looked = None;
        // Of a replica that has just come to it, at once.
        for (minutes, gone) in [(0, true), (5, false), (50, false), (5, true), (5, false)] {
            test.clock.advance(Duration::from_secs(minutes * 60));
            let strays = strays(&folder);
            clean(&test.app, &mut looked).await.unwrap();
            let there: Vec<_> = strays.iter().filter(|path| path.exists()).collect();
            assert_eq!(there.len(), if gone { 0 } else { strays.len() }, "{minutes} minutes later: {there:?}");
        }
    }
}
