-- Files that outlive sandboxes. A volume lies on one host: the one on which it was first mounted.
CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id),
    name TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('shared', 'exclusive')),
    size_mb BIGINT NOT NULL,                 -- its quota
    host_id TEXT,                            -- no foreign key: the row outlives the host's
    bound_by TEXT,                           -- the sandbox that chose the host, as long as it is the only one there was
    created_by TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (team_id, name)
);
CREATE INDEX volumes_by_team ON volumes (team_id, created_at, id);

-- Which living sandbox has what mounted. A volume with a mount can't be deleted.
CREATE TABLE volume_mounts (
    sandbox_id TEXT NOT NULL,
    path TEXT NOT NULL,
    volume_id TEXT NOT NULL REFERENCES volumes (id),
    read_only BOOLEAN NOT NULL,
    PRIMARY KEY (sandbox_id, path)
);
CREATE INDEX volume_mounts_by_volume ON volume_mounts (volume_id);

CREATE FUNCTION release_sandbox_volumes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM volume_mounts WHERE sandbox_id = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER sandboxes_release_volumes AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (NEW.status = 'stopped') EXECUTE FUNCTION release_sandbox_volumes();
