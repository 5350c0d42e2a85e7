-- What a key may do and until when; what a team may have (NULL: the installation's default).

ALTER TABLE api_keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'all';    -- all | sandboxes | read
ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;

ALTER TABLE teams ADD COLUMN quota_sandboxes BIGINT;
ALTER TABLE teams ADD COLUMN quota_vcpus BIGINT;
ALTER TABLE teams ADD COLUMN quota_memory_mb BIGINT;
ALTER TABLE teams ADD COLUMN quota_disk_mb BIGINT;

-- What a team has now is added up from this index alone.
CREATE INDEX sandboxes_of_team ON sandboxes (team_id, vcpus, memory_mb, disk_mb) WHERE status <> 'stopped';

-- Finished days, added up once from the life of each sandbox.
CREATE TABLE usage_days (
    team_id TEXT NOT NULL,
    day BIGINT NOT NULL,                     -- days since 1970, UTC
    sandboxes BIGINT NOT NULL,               -- that existed on that day
    sandbox_ms BIGINT NOT NULL,              -- running
    vcpu_ms BIGINT NOT NULL,
    memory_mb_ms BIGINT NOT NULL,            -- running or paused: a paused one keeps its memory
    disk_mb_ms BIGINT NOT NULL,              -- while it existed
    PRIMARY KEY (team_id, day)
);
CREATE INDEX sandboxes_ended ON sandboxes (status_changed_at) WHERE status = 'stopped';
