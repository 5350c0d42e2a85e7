-- What sandboxes write over their templates, kept read-only: snapshots, forks and built templates stand on layers.
CREATE TABLE layers (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL,
    host_id TEXT,                            -- the host that has it, in its pool or packed as an image
    byoc BOOLEAN NOT NULL,                   -- made on a machine of the team's own: never loaded on another's
    digest TEXT,                             -- SHA-256 of its image, once it was packed
    stored BOOLEAN NOT NULL,                 -- the image is in the object store: every host can have it
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX layers_by_digest ON layers (digest);

-- Who stands on what, topmost first from position 0. Holders are sandboxes, templates and snapshots, builds, and steps
-- of builds. Position -1: all of the holder's layers in one, for who comes next.
CREATE TABLE layer_refs (
    holder TEXT NOT NULL,
    position BIGINT NOT NULL,
    layer_id TEXT NOT NULL REFERENCES layers (id),
    PRIMARY KEY (holder, position)
);
CREATE INDEX layer_refs_by_layer ON layer_refs (layer_id);

ALTER TABLE templates ADD COLUMN env JSONB NOT NULL DEFAULT '{}';
ALTER TABLE templates ADD COLUMN start_cmd TEXT;
ALTER TABLE templates ADD COLUMN ready_cmd TEXT;
ALTER TABLE templates ADD COLUMN sandbox_id TEXT;    -- the sandbox that a snapshot was made of
ALTER TABLE sandboxes ADD COLUMN purpose TEXT NOT NULL DEFAULT '';    -- '' for people's, 'build' for what builds use

CREATE FUNCTION release_sandbox_layers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM layer_refs WHERE holder = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER sandboxes_release_layers AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (NEW.status = 'stopped') EXECUTE FUNCTION release_sandbox_layers();
