-- What is shown with a row lies in the row: a host's tags, and what a sandbox was given to mount.

ALTER TABLE hosts ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';          -- sorted, no two the same
UPDATE hosts SET tags = (SELECT json_group_array(tag) FROM
    (SELECT tag FROM host_tags WHERE host_tags.host_id = hosts.id ORDER BY tag))
WHERE id IN (SELECT host_id FROM host_tags);
DROP TABLE host_tags;

DROP TRIGGER hosts_changed;
CREATE TRIGGER hosts_changed AFTER UPDATE OF name, status, draining, address, agent_version, deletion_id, tags ON hosts
WHEN OLD.name IS NOT NEW.name OR OLD.status IS NOT NEW.status OR OLD.draining IS NOT NEW.draining
    OR OLD.address IS NOT NEW.address OR OLD.agent_version IS NOT NEW.agent_version
    OR OLD.deletion_id IS NOT NEW.deletion_id OR OLD.tags IS NOT NEW.tags
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.team_id, 'host.updated', NEW.id,
            json_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
END;

-- Unlike volume_mounts, which says what is in use, this stays when the sandbox has ended.
ALTER TABLE sandboxes ADD COLUMN mounts TEXT NOT NULL DEFAULT '[]';
UPDATE sandboxes SET mounts = (SELECT json_group_array(json_object('volume_id', volume_id, 'volume', name, 'path', path,
        'read_only', json(CASE WHEN read_only THEN 'true' ELSE 'false' END)))
    FROM (SELECT m.volume_id, v.name, m.path, m.read_only FROM volume_mounts m JOIN volumes v ON v.id = m.volume_id
        WHERE m.sandbox_id = sandboxes.id ORDER BY m.path))
WHERE id IN (SELECT sandbox_id FROM volume_mounts);
