-- A sandbox whose host can't be seen tells so by a type of its own, `sandbox.missing`; and a host's change bears the time
-- that its writer gave it, by the clock that all else is judged by.

CREATE OR REPLACE FUNCTION record_sandbox_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
            CASE NEW.status WHEN 'stopped' THEN 'sandbox.deleted' WHEN 'missing' THEN 'sandbox.missing'
                ELSE 'sandbox.updated' END, NEW.id,
                jsonb_build_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id,
                'former_status', OLD.status));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION record_host_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.created_at, NEW.team_id, 'host.created', NEW.id,
                jsonb_build_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (NEW.updated_at, NEW.team_id, 'host.updated', NEW.id,
                jsonb_build_object('name', NEW.name, 'status', NEW.status, 'draining', NEW.draining));
    ELSE
        INSERT INTO events (at, team_id, type, subject_id, data)
        VALUES (CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT), OLD.team_id, 'host.deleted', OLD.id,
                jsonb_build_object('name', OLD.name, 'status', OLD.status, 'draining', OLD.draining));
    END IF;
    RETURN NULL;
END
$$;
