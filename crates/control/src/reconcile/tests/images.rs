//! Deleting an image on every host, on both databases.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::image_deletion::ImageDeletion;
use super::memory::MemoryAgents;
use super::sql::rigs;

#[tokio::test]
async fn every_host_deletes_it_now_or_when_it_is_back() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let (one, _two) = (rig.online_host().await, rig.online_host().await);
        rig.execute(&format!("UPDATE hosts SET status = 'unreachable' WHERE id = '{one}'")).await;
        let images = ImageDeletion { db: rig.db.clone(), clock: rig.clock.clone(), agents: Arc::clone(&agents) as _ };
        let mut tx = rig.db.begin().await.unwrap();
        images.note(&mut tx, "digest").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(images.broadcast("digest").await.unwrap(), 1, "the one that is away is still to do it");
        assert_eq!(agents.deleted_images.lock().unwrap().len(), 1);
        let pending = format!("SELECT COUNT(*) FROM pending_deletions WHERE host_id = '{one}'");
        assert_eq!(rig.count(&pending).await, 1);
        assert_eq!(rig.count("SELECT COUNT(*) FROM pending_deletions").await, 1);

        agents.reachable.store(false, Ordering::SeqCst);
        rig.execute("UPDATE hosts SET status = 'online'").await;
        assert_eq!(images.broadcast("digest").await.unwrap(), 1, "an unreachable one keeps it pending");
    }
}
