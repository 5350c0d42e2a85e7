-- Every change of what people look at writes its event in the same transaction, whoever makes it: the database does
-- it itself. `type` is the thing's kind and what happened to it; a sandbox that is stopped is a deleted one.
-- A deletion has no time of its own in a row, so its event has the database's.

DROP TRIGGER sandboxes_inserted ON sandboxes;
DROP TRIGGER sandboxes_changed ON sandboxes;
DROP FUNCTION record_sandbox_event();

CREATE FUNCTION record_sandbox_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.status = NEW.status THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), NEW.team_id, 'sandbox.updated', NEW.id,
                jsonb_build_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
        RETURN NULL;
    END IF;
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.status_changed_at, NEW.team_id, 'sandbox.created', NEW.id,
                jsonb_build_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.status_changed_at, NEW.team_id,
            CASE NEW.status WHEN 'stopped' THEN 'sandbox.deleted' ELSE 'sandbox.updated' END, NEW.id,
                jsonb_build_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id,
                'former_status', OLD.status));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER sandboxes_inserted AFTER INSERT ON sandboxes
    FOR EACH ROW EXECUTE FUNCTION record_sandbox_event();

CREATE TRIGGER sandboxes_changed AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION record_sandbox_event();

CREATE TRIGGER sandboxes_edited AFTER UPDATE OF timeout_sec, on_timeout, auto_resume, metadata, network ON sandboxes
    FOR EACH ROW WHEN (OLD.status = NEW.status
        AND (OLD.timeout_sec IS DISTINCT FROM NEW.timeout_sec OR OLD.on_timeout IS DISTINCT FROM NEW.on_timeout
            OR OLD.auto_resume IS DISTINCT FROM NEW.auto_resume OR OLD.metadata IS DISTINCT FROM NEW.metadata
            OR OLD.network IS DISTINCT FROM NEW.network))
    EXECUTE FUNCTION record_sandbox_event();

CREATE FUNCTION record_host_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.team_id, 'host.created', NEW.id,
                jsonb_build_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), NEW.team_id, 'host.updated', NEW.id,
                jsonb_build_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.team_id, 'host.deleted', OLD.id,
                jsonb_build_object('name', OLD.name, 'status', OLD.status, 'draining', OLD.draining));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER hosts_inserted AFTER INSERT ON hosts
    FOR EACH ROW EXECUTE FUNCTION record_host_event();

CREATE TRIGGER hosts_changed AFTER UPDATE OF name, status, draining, address, agent_version, deletion_id ON hosts
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.status IS DISTINCT FROM NEW.status
        OR OLD.draining IS DISTINCT FROM NEW.draining OR OLD.address IS DISTINCT FROM NEW.address
        OR OLD.agent_version IS DISTINCT FROM NEW.agent_version
        OR OLD.deletion_id IS DISTINCT FROM NEW.deletion_id)
    EXECUTE FUNCTION record_host_event();

CREATE TRIGGER hosts_deleted AFTER DELETE ON hosts
    FOR EACH ROW EXECUTE FUNCTION record_host_event();

CREATE FUNCTION record_template_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.team_id, NEW.kind || '.created', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.updated_at, NEW.team_id, NEW.kind || '.updated', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.team_id,
                OLD.kind || '.deleted', OLD.id,
                jsonb_build_object('name', OLD.name));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER templates_inserted AFTER INSERT ON templates
    FOR EACH ROW EXECUTE FUNCTION record_template_event();

CREATE TRIGGER templates_changed AFTER UPDATE OF name, digest, driver, vcpus, memory_mb, disk_mb ON templates
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.digest IS DISTINCT FROM NEW.digest
        OR OLD.driver IS DISTINCT FROM NEW.driver OR OLD.vcpus IS DISTINCT FROM NEW.vcpus
        OR OLD.memory_mb IS DISTINCT FROM NEW.memory_mb OR OLD.disk_mb IS DISTINCT FROM NEW.disk_mb)
    EXECUTE FUNCTION record_template_event();

CREATE TRIGGER templates_deleted AFTER DELETE ON templates
    FOR EACH ROW EXECUTE FUNCTION record_template_event();

CREATE FUNCTION record_api_key_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.team_id, 'api_key.created', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), NEW.team_id, 'api_key.updated', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.team_id, 'api_key.deleted', OLD.id,
                jsonb_build_object('name', OLD.name));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys
    FOR EACH ROW EXECUTE FUNCTION record_api_key_event();

CREATE TRIGGER api_keys_changed AFTER UPDATE OF name ON api_keys
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name)
    EXECUTE FUNCTION record_api_key_event();

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION record_api_key_event();

CREATE FUNCTION record_team_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.id, 'team.created', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.updated_at, NEW.id, 'team.updated', NEW.id,
                jsonb_build_object('name', NEW.name));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.id, 'team.deleted', OLD.id,
                jsonb_build_object('name', OLD.name));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER teams_inserted AFTER INSERT ON teams
    FOR EACH ROW EXECUTE FUNCTION record_team_event();

CREATE TRIGGER teams_changed AFTER UPDATE OF name, slug, is_byoc ON teams
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.slug IS DISTINCT FROM NEW.slug
        OR OLD.is_byoc IS DISTINCT FROM NEW.is_byoc)
    EXECUTE FUNCTION record_team_event();

CREATE TRIGGER teams_deleted AFTER DELETE ON teams
    FOR EACH ROW EXECUTE FUNCTION record_team_event();

CREATE FUNCTION record_member_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.team_id, 'member.created', NEW.user_id,
                jsonb_build_object('role', NEW.role));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), NEW.team_id,
                'member.updated', NEW.user_id,
                jsonb_build_object('role', NEW.role));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.team_id,
                'member.deleted', OLD.user_id,
                jsonb_build_object('role', OLD.role));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER team_members_inserted AFTER INSERT ON team_members
    FOR EACH ROW EXECUTE FUNCTION record_member_event();

CREATE TRIGGER team_members_changed AFTER UPDATE OF role ON team_members
    FOR EACH ROW WHEN (OLD.role IS DISTINCT FROM NEW.role)
    EXECUTE FUNCTION record_member_event();

CREATE TRIGGER team_members_deleted AFTER DELETE ON team_members
    FOR EACH ROW EXECUTE FUNCTION record_member_event();
