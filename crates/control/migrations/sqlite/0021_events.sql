-- Every change of what people look at writes its event in the same transaction, whoever makes it: the database does
-- it itself. `type` is the thing's kind and what happened to it; a sandbox that is stopped is a deleted one.
-- A deletion has no time of its own in a row, so its event has the database's.

DROP TRIGGER sandboxes_inserted;
DROP TRIGGER sandboxes_changed;

CREATE TRIGGER sandboxes_inserted AFTER INSERT ON sandboxes
BEGIN
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.status_changed_at, NEW.team_id, 'sandbox.created', NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
END;

CREATE TRIGGER sandboxes_changed AFTER UPDATE OF status ON sandboxes WHEN OLD.status <> NEW.status
BEGIN
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.status_changed_at, NEW.team_id,
            CASE NEW.status WHEN 'stopped' THEN 'sandbox.deleted' ELSE 'sandbox.updated' END, NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id,
                'former_status', OLD.status));
END;

CREATE TRIGGER sandboxes_edited AFTER UPDATE OF timeout_sec, on_timeout, auto_resume, metadata, network ON sandboxes
WHEN OLD.status = NEW.status AND (OLD.timeout_sec IS NOT NEW.timeout_sec OR OLD.on_timeout IS NOT NEW.on_timeout
    OR OLD.auto_resume IS NOT NEW.auto_resume OR OLD.metadata IS NOT NEW.metadata
    OR OLD.network IS NOT NEW.network)
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.team_id, 'sandbox.updated', NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
END;

CREATE TRIGGER hosts_inserted AFTER INSERT ON hosts
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.team_id, 'host.created', NEW.id,
            json_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
END;

CREATE TRIGGER hosts_changed AFTER UPDATE OF name, status, draining, address, agent_version, deletion_id ON hosts
WHEN OLD.name IS NOT NEW.name OR OLD.status IS NOT NEW.status OR OLD.draining IS NOT NEW.draining
    OR OLD.address IS NOT NEW.address OR OLD.agent_version IS NOT NEW.agent_version
    OR OLD.deletion_id IS NOT NEW.deletion_id
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.team_id, 'host.updated', NEW.id,
            json_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
END;

CREATE TRIGGER hosts_deleted AFTER DELETE ON hosts
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.team_id, 'host.deleted', OLD.id,
            json_object('name', OLD.name, 'status', OLD.status, 'draining', OLD.draining));
END;

CREATE TRIGGER templates_inserted AFTER INSERT ON templates
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.team_id, NEW.kind || '.created', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER templates_changed AFTER UPDATE OF name, digest, driver, vcpus, memory_mb, disk_mb ON templates
WHEN OLD.name IS NOT NEW.name OR OLD.digest IS NOT NEW.digest OR OLD.driver IS NOT NEW.driver
    OR OLD.vcpus IS NOT NEW.vcpus OR OLD.memory_mb IS NOT NEW.memory_mb
    OR OLD.disk_mb IS NOT NEW.disk_mb
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.updated_at, NEW.team_id, NEW.kind || '.updated', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER templates_deleted AFTER DELETE ON templates
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.team_id, OLD.kind || '.deleted', OLD.id,
            json_object('name', OLD.name));
END;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.team_id, 'api_key.created', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER api_keys_changed AFTER UPDATE OF name ON api_keys
WHEN OLD.name IS NOT NEW.name
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.team_id, 'api_key.updated', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.team_id, 'api_key.deleted', OLD.id,
            json_object('name', OLD.name));
END;

CREATE TRIGGER teams_inserted AFTER INSERT ON teams
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.id, 'team.created', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER teams_changed AFTER UPDATE OF name, slug, is_byoc ON teams
WHEN OLD.name IS NOT NEW.name OR OLD.slug IS NOT NEW.slug OR OLD.is_byoc IS NOT NEW.is_byoc
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.updated_at, NEW.id, 'team.updated', NEW.id,
            json_object('name', NEW.name));
END;

CREATE TRIGGER teams_deleted AFTER DELETE ON teams
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.id, 'team.deleted', OLD.id,
            json_object('name', OLD.name));
END;

CREATE TRIGGER team_members_inserted AFTER INSERT ON team_members
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.team_id, 'member.created', NEW.user_id,
            json_object('role', NEW.role));
END;

CREATE TRIGGER team_members_changed AFTER UPDATE OF role ON team_members
WHEN OLD.role IS NOT NEW.role
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.team_id, 'member.updated', NEW.user_id,
            json_object('role', NEW.role));
END;

CREATE TRIGGER team_members_deleted AFTER DELETE ON team_members
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.team_id, 'member.deleted', OLD.user_id,
            json_object('role', OLD.role));
END;
