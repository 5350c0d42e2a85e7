-- How templates are built: what was asked for, how far it is, what came out.
CREATE TABLE template_builds (
    id TEXT PRIMARY KEY,
    template_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('waiting', 'building', 'ready', 'error', 'cancelled')),
    spec TEXT NOT NULL,                       -- without credentials
    reason TEXT,                             -- why it failed
    step TEXT,                               -- where: base, a step's number from 1, or finalize
    owner TEXT NOT NULL,                     -- the replica that runs it
    alive_at BIGINT NOT NULL,                -- its last sign of life
    cancel BOOLEAN NOT NULL,                 -- somebody wants it to end
    digest TEXT,                             -- what came out: the image below, settings, and by reference its layers
    size_bytes BIGINT,
    vcpus BIGINT,
    memory_mb BIGINT,
    disk_mb BIGINT,
    default_user TEXT,
    default_workdir TEXT,
    env TEXT,
    start_cmd TEXT,
    ready_cmd TEXT,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX template_builds_by_template ON template_builds (template_id, created_at, id);
CREATE INDEX template_builds_under_way ON template_builds (alive_at) WHERE status IN ('waiting', 'building');

CREATE TABLE template_build_logs (
    build_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    step TEXT,
    message TEXT NOT NULL,
    PRIMARY KEY (build_id, seq)
);

-- Names of builds within a template. `default` is what the template's bare name means.
CREATE TABLE template_tags (
    template_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    build_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (template_id, tag)
);

-- Steps that were built before. What they stand on is in layer_refs, by key.
CREATE TABLE build_cache (
    key TEXT PRIMARY KEY,                    -- stp-, then a hash over all that came before
    team_id TEXT NOT NULL,
    used_at BIGINT NOT NULL
);

-- Images that were pulled from registries, by the digest of their manifest.
CREATE TABLE pulled_images (
    manifest TEXT PRIMARY KEY,
    digest TEXT NOT NULL,                    -- of the erofs image in the object store
    size_bytes BIGINT NOT NULL,
    config TEXT NOT NULL,
    used_at BIGINT NOT NULL
);
