-- Webhooks of teams and what was sent to them. A secret has to be known to sign with it, so it is kept as it is; the
-- database file is its owner's alone.

CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    events TEXT NOT NULL,                    -- `*`, or kinds and types with commas around: ,host,sandbox.deleted,
    secret TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    failing_since BIGINT,                    -- NULL: the last attempt succeeded
    after_event BIGINT NOT NULL,             -- events up to this one were before it
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at, id);

CREATE TABLE webhook_deliveries (
    id TEXT PRIMARY KEY,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id BIGINT,                         -- NULL: a test
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    response_status BIGINT,
    error TEXT,
    duration_ms BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_by_hook ON webhook_deliveries (webhook_id, created_at, id);
CREATE INDEX webhook_deliveries_done ON webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL;
-- An event is sent to a webhook once, whoever finds it.
CREATE UNIQUE INDEX webhook_deliveries_once ON webhook_deliveries (webhook_id, event_id);

CREATE TRIGGER webhooks_inserted AFTER INSERT ON webhooks
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.created_at, NEW.team_id, 'webhook.created', NEW.id, json_object('url', NEW.url));
END;

CREATE TRIGGER webhooks_changed AFTER UPDATE OF url, events, enabled ON webhooks
WHEN OLD.url IS NOT NEW.url OR OLD.events IS NOT NEW.events OR OLD.enabled IS NOT NEW.enabled
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.updated_at, NEW.team_id, 'webhook.updated', NEW.id, json_object('url', NEW.url));
END;

CREATE TRIGGER webhooks_deleted AFTER DELETE ON webhooks
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), OLD.team_id, 'webhook.deleted', OLD.id,
            json_object('url', OLD.url));
END;
