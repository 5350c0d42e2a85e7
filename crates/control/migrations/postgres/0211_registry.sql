-- What `docker push` leaves: a team's blobs by digest, the manifests that name them, tags, and what is being uploaded.
-- Contents of blobs lie in the object store, in parts, as they came.
CREATE TABLE registry_uploads (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL,
    parts TEXT NOT NULL,                     -- names of objects in their order, with commas between
    size_bytes BIGINT NOT NULL,
    digest TEXT,                             -- of all that came, as long as it came as one part
    touched_at BIGINT NOT NULL
);
CREATE INDEX registry_uploads_by_team ON registry_uploads (team_id);

CREATE TABLE registry_blobs (
    team_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    parts TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, digest)
);

CREATE TABLE registry_manifests (
    team_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    media_type TEXT NOT NULL,
    content TEXT NOT NULL,                   -- byte for byte as it came: the digest is over this
    size_bytes BIGINT NOT NULL,              -- of the content
    used_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, repository, digest)
);

-- What a manifest names, which stays as long as the manifest does.
CREATE TABLE registry_blob_refs (
    team_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    manifest TEXT NOT NULL,
    blob TEXT NOT NULL,
    PRIMARY KEY (team_id, repository, manifest, blob),
    FOREIGN KEY (team_id, repository, manifest) REFERENCES registry_manifests (team_id, repository, digest) ON DELETE CASCADE,
    FOREIGN KEY (team_id, blob) REFERENCES registry_blobs (team_id, digest)
);
CREATE INDEX registry_blob_refs_by_blob ON registry_blob_refs (team_id, blob);

-- Manifests that a list names.
CREATE TABLE registry_manifest_refs (
    team_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    list TEXT NOT NULL,
    manifest TEXT NOT NULL,
    PRIMARY KEY (team_id, repository, list, manifest),
    FOREIGN KEY (team_id, repository, list) REFERENCES registry_manifests (team_id, repository, digest) ON DELETE CASCADE,
    FOREIGN KEY (team_id, repository, manifest) REFERENCES registry_manifests (team_id, repository, digest)
);
CREATE INDEX registry_manifest_refs_by_manifest ON registry_manifest_refs (team_id, repository, manifest);

CREATE TABLE registry_tags (
    team_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    manifest TEXT NOT NULL,
    PRIMARY KEY (team_id, repository, tag),
    FOREIGN KEY (team_id, repository, manifest) REFERENCES registry_manifests (team_id, repository, digest)
);
CREATE INDEX registry_tags_by_manifest ON registry_tags (team_id, repository, manifest);
