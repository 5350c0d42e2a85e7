-- A sandbox whose host can't be seen tells so by a type of its own, `sandbox.missing`; and a host's change bears the time
-- that its writer gave it, by the clock that all else is judged by.

DROP TRIGGER sandboxes_changed;
CREATE TRIGGER sandboxes_changed AFTER UPDATE OF status ON sandboxes WHEN OLD.status <> NEW.status
BEGIN
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.status_changed_at, NEW.team_id,
            CASE NEW.status WHEN 'stopped' THEN 'sandbox.deleted' WHEN 'missing' THEN 'sandbox.missing'
                ELSE 'sandbox.updated' END, NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id,
                'former_status', OLD.status));
END;

DROP TRIGGER hosts_changed;
CREATE TRIGGER hosts_changed AFTER UPDATE OF name, status, draining, address, agent_version, deletion_id, tags ON hosts
WHEN OLD.name IS NOT NEW.name OR OLD.status IS NOT NEW.status OR OLD.draining IS NOT NEW.draining
    OR OLD.address IS NOT NEW.address OR OLD.agent_version IS NOT NEW.agent_version
    OR OLD.deletion_id IS NOT NEW.deletion_id OR OLD.tags IS NOT NEW.tags
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.updated_at, NEW.team_id, 'host.updated', NEW.id,
            json_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
END;
