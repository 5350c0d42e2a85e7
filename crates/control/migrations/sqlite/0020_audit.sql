-- The audit trail: what the client called itself, lists that stay flat however long it grows, and no change to it.

ALTER TABLE audit_logs ADD COLUMN user_agent TEXT;

CREATE INDEX audit_logs_by_actor ON audit_logs (actor_id, at, id) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_logs_by_target ON audit_logs (target_id, at, id) WHERE target_id IS NOT NULL;
CREATE INDEX audit_logs_by_action ON audit_logs (action, at, id);
CREATE INDEX audit_logs_by_team_action ON audit_logs (team_id, action, at, id);

CREATE TRIGGER audit_logs_no_update BEFORE UPDATE ON audit_logs
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;

CREATE TRIGGER audit_logs_no_delete BEFORE DELETE ON audit_logs
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;
