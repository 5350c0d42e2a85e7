-- The first schema, for SQLite. migrations/postgres has the same tables and columns; a test compares them.
-- Ids are TEXT (prefix and 20 characters). Times are milliseconds since 1970 in BIGINT: the same type, order and
-- arithmetic in both databases, taken from control's own clock and never from SQL. Hashes are lower-case hex.

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,              -- lower case
    name TEXT NOT NULL,
    password_hash TEXT,                      -- argon2id; NULL when the person signs in elsewhere
    is_admin BOOLEAN NOT NULL,
    is_active BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE teams (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL UNIQUE,
    is_byoc BOOLEAN NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE team_members (
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX team_members_by_user ON team_members (user_id);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,           -- SHA-256 of the whole key
    key_prefix TEXT NOT NULL,                -- first 10 characters, for people
    created_by TEXT,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX api_keys_by_team ON api_keys (team_id, created_at, id);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    address TEXT,
    user_agent TEXT
);
CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE hosts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('regular', 'byoc')),
    team_id TEXT REFERENCES teams (id),
    provider TEXT,
    availability_zone TEXT,
    status TEXT NOT NULL CHECK (status IN ('pending', 'online', 'unreachable', 'offline')),
    status_changed_at BIGINT NOT NULL,
    draining BOOLEAN NOT NULL,
    arch TEXT,
    cpu_cores BIGINT,
    memory_mb BIGINT,
    disk_gb BIGINT,
    drivers TEXT NOT NULL,                 -- ["container", ...]
    address TEXT,                            -- host:port of the agent
    agent_version TEXT,
    boot_id TEXT,
    public_key TEXT,                         -- of the host's key pair, hex of the SPKI
    certificate_fingerprint TEXT,
    credential_family TEXT,                  -- the one family of refresh tokens that is in force; NULL: revoked
    confirmed_token_id TEXT,                 -- the refresh token whose access token was last seen in use
    capacity_cpu_millis BIGINT NOT NULL,
    capacity_memory_mb BIGINT NOT NULL,
    capacity_disk_mb BIGINT NOT NULL,
    used_cpu_millis BIGINT NOT NULL,
    used_memory_mb BIGINT NOT NULL,
    used_disk_mb BIGINT NOT NULL,
    sandboxes_running BIGINT NOT NULL,
    sandboxes_paused BIGINT NOT NULL,
    sandboxes_other BIGINT NOT NULL,
    sandbox_digest TEXT,
    inventory_complete BOOLEAN NOT NULL,
    ready BOOLEAN NOT NULL,                  -- the agent says that a create would succeed
    cached_images TEXT NOT NULL,
    last_heartbeat_at BIGINT,
    registered_at BIGINT,
    deletion_id TEXT,                        -- a forced deletion is under way; whoever finds it finishes it
    deletion_requested_by TEXT,
    deletion_requested_at BIGINT,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX hosts_by_team ON hosts (team_id);
CREATE INDEX hosts_by_status ON hosts (status, last_heartbeat_at);

CREATE TABLE host_tags (
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, tag)
);

CREATE TABLE host_registration_tokens (
    token_hash TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX host_registration_tokens_by_host ON host_registration_tokens (host_id);

CREATE TABLE host_refresh_tokens (
    id TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    family_id TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,                          -- first use of it, or of the access token issued with it
    revoked_at BIGINT,
    successor_id TEXT,
    parent_id TEXT
);
CREATE INDEX host_refresh_tokens_by_host ON host_refresh_tokens (host_id);
CREATE INDEX host_refresh_tokens_by_family ON host_refresh_tokens (family_id);

-- What a deleted host is told when it comes back, whatever credentials it still has.
CREATE TABLE host_tombstones (
    host_id TEXT PRIMARY KEY,
    deletion_id TEXT NOT NULL,
    type TEXT NOT NULL,
    team_id TEXT,
    deleted_by TEXT,
    deleted_at BIGINT NOT NULL
);

-- The refresh tokens that a deleted host had, live or not: any of them earns it the tombstone.
CREATE TABLE host_tombstone_tokens (
    token_hash TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES host_tombstones (host_id) ON DELETE CASCADE
);
CREATE INDEX host_tombstone_tokens_by_host ON host_tombstone_tokens (host_id);

CREATE TABLE templates (
    id TEXT PRIMARY KEY,
    team_id TEXT REFERENCES teams (id),      -- NULL: the platform's, for every team
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('template', 'snapshot')),
    digest TEXT NOT NULL,                    -- SHA-256 of the image file
    size_bytes BIGINT NOT NULL,
    driver TEXT NOT NULL,                    -- container | vm | auto
    vcpus BIGINT,                            -- defaults of its sandboxes; NULL: the platform's
    memory_mb BIGINT,
    disk_mb BIGINT,
    default_user TEXT NOT NULL,
    default_workdir TEXT NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX templates_by_name ON templates (COALESCE(team_id, ''), name);
CREATE INDEX templates_by_digest ON templates (digest);

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id),
    host_id TEXT,                            -- no foreign key: the row outlives the host's
    template TEXT NOT NULL,                  -- its name at the time of creation
    template_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN
        ('pending', 'starting', 'running', 'pausing', 'paused', 'resuming', 'stopped', 'missing', 'error')),
    former_status TEXT,                      -- what a missing one was
    reason TEXT,
    generation BIGINT NOT NULL,
    driver TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    disk_mb BIGINT NOT NULL,
    timeout_sec BIGINT NOT NULL,             -- idle seconds; 0: never
    on_timeout TEXT NOT NULL CHECK (on_timeout IN ('pause', 'kill')),
    auto_resume BOOLEAN NOT NULL,
    on_reboot TEXT NOT NULL CHECK (on_reboot IN ('restart', 'stop')),
    metadata TEXT NOT NULL,
    network TEXT NOT NULL,
    access_token TEXT NOT NULL,              -- of the guest protocol; '' when it needs none
    created_by TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    last_active_at BIGINT NOT NULL,
    status_changed_at BIGINT NOT NULL
);
CREATE INDEX sandboxes_by_team ON sandboxes (team_id, created_at, id);
CREATE INDEX sandboxes_by_host ON sandboxes (host_id, status);
CREATE INDEX sandboxes_idle ON sandboxes (last_active_at) WHERE status = 'running' AND timeout_sec > 0;
CREATE INDEX sandboxes_in_transition ON sandboxes (status_changed_at)
    WHERE status IN ('pending', 'starting', 'pausing', 'resuming');

-- The life of each sandbox. Written by the triggers below, so that no change of status can be without its event.
CREATE TABLE sandbox_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    host_id TEXT,
    at BIGINT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT
);
CREATE INDEX sandbox_events_by_sandbox ON sandbox_events (sandbox_id, id);

-- The outbox: what happened, in order, for live views and webhooks. Rows are written in the transaction of the
-- change itself and removed after a while.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    team_id TEXT,                            -- NULL: of the platform
    type TEXT NOT NULL,                      -- sandbox.running, host.unreachable, ...
    subject_id TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX events_by_team ON events (team_id, id);
CREATE INDEX events_by_age ON events (at);

CREATE TABLE audit_logs (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    team_id TEXT,
    actor_kind TEXT NOT NULL,                -- user | api_key | host | system
    actor_id TEXT,
    action TEXT NOT NULL,                    -- sandbox.create, api_key.delete, ...
    target_kind TEXT NOT NULL,
    target_id TEXT,
    result TEXT NOT NULL,                    -- ok, or an error code
    address TEXT,
    request_id TEXT,
    details TEXT NOT NULL
);
CREATE INDEX audit_logs_by_team ON audit_logs (team_id, at, id);
CREATE INDEX audit_logs_by_time ON audit_logs (at, id);

CREATE TABLE idempotency_keys (
    owner TEXT NOT NULL,                     -- team or user id
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,              -- of route and body
    status BIGINT,                           -- NULL while the first request is under way
    response TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

-- Work that one replica must do alone.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);

CREATE TABLE rate_limits (
    key TEXT PRIMARY KEY,
    window_start BIGINT NOT NULL,
    count BIGINT NOT NULL
);

-- Images to delete on hosts that could not be reached when they were deleted.
CREATE TABLE pending_deletions (
    host_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, digest)
);

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Private keys that all replicas share (JWT signing, CA). The reason why the database file is 0600.
CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,                   -- user_jwt | host_jwt | ca
    private_pem TEXT NOT NULL,
    public_pem TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);
CREATE INDEX signing_keys_by_purpose ON signing_keys (purpose, created_at);

CREATE TRIGGER sandboxes_inserted AFTER INSERT ON sandboxes
BEGIN
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.status_changed_at, NEW.team_id, 'sandbox.' || NEW.status, NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
END;

CREATE TRIGGER sandboxes_changed AFTER UPDATE OF status ON sandboxes WHEN OLD.status <> NEW.status
BEGIN
    INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason)
    VALUES (NEW.id, NEW.team_id, NEW.host_id, NEW.status_changed_at, NEW.status, NEW.reason);
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.status_changed_at, NEW.team_id, 'sandbox.' || NEW.status, NEW.id,
            json_object('status', NEW.status, 'reason', NEW.reason, 'host_id', NEW.host_id));
END;
