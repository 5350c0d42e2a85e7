-- What is shown with a row lies in the row: a host's tags, and what a sandbox was given to mount.

ALTER TABLE hosts ADD COLUMN tags JSONB NOT NULL DEFAULT '[]';         -- sorted, no two the same
UPDATE hosts SET tags = (SELECT jsonb_agg(tag ORDER BY tag COLLATE "C") FROM host_tags WHERE host_tags.host_id = hosts.id)
WHERE id IN (SELECT host_id FROM host_tags);
DROP TABLE host_tags;

DROP TRIGGER hosts_changed ON hosts;
CREATE TRIGGER hosts_changed AFTER UPDATE OF name, status, draining, address, agent_version, deletion_id, tags ON hosts
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.status IS DISTINCT FROM NEW.status
        OR OLD.draining IS DISTINCT FROM NEW.draining OR OLD.address IS DISTINCT FROM NEW.address
        OR OLD.agent_version IS DISTINCT FROM NEW.agent_version
        OR OLD.deletion_id IS DISTINCT FROM NEW.deletion_id
        OR OLD.tags IS DISTINCT FROM NEW.tags)
    EXECUTE FUNCTION record_host_event();

-- Unlike volume_mounts, which says what is in use, this stays when the sandbox has ended.
ALTER TABLE sandboxes ADD COLUMN mounts JSONB NOT NULL DEFAULT '[]';
UPDATE sandboxes SET mounts = (SELECT jsonb_agg(jsonb_build_object('volume_id', m.volume_id, 'volume', v.name,
        'path', m.path, 'read_only', m.read_only) ORDER BY m.path COLLATE "C")
    FROM volume_mounts m JOIN volumes v ON v.id = m.volume_id WHERE m.sandbox_id = sandboxes.id)
WHERE id IN (SELECT sandbox_id FROM volume_mounts);
