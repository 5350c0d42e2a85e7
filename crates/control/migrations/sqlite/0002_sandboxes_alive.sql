-- What the scheduler adds up every second, and what a host's inventory is compared with: sandboxes that are not
-- stopped. Stopped ones stay readable and become many, so they are kept out of the way.
CREATE INDEX sandboxes_alive ON sandboxes (host_id, vcpus, memory_mb, disk_mb) WHERE status <> 'stopped';
