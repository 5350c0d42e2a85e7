-- What was refused or failed, found without reading all that went well.

CREATE INDEX audit_logs_failures ON audit_logs (at, id) WHERE result <> 'ok';
CREATE INDEX audit_logs_failures_by_team ON audit_logs (team_id, at, id) WHERE result <> 'ok';
