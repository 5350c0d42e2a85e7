-- What was built before is a team's own. Keys of before named no team: those steps are built again.
DELETE FROM layer_refs WHERE holder LIKE 'stp-%';
DROP TABLE build_cache;
CREATE TABLE build_cache (
    team_id TEXT NOT NULL,
    key TEXT NOT NULL,                       -- stp-, then a hash over the team and all that came before
    used_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, key)
);
CREATE INDEX build_cache_by_use ON build_cache (used_at);

ALTER TABLE layers ADD COLUMN lost BOOLEAN NOT NULL DEFAULT FALSE;    -- its host was deleted before it was stored
ALTER TABLE layers ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;     -- how often it could not be stored
ALTER TABLE layers ADD COLUMN try_at BIGINT NOT NULL DEFAULT 0;       -- when that is tried next
ALTER TABLE layers ADD COLUMN problem TEXT;                           -- why it could not
UPDATE layers SET lost = TRUE
    WHERE NOT stored AND host_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM hosts h WHERE h.id = layers.host_id);
CREATE INDEX layers_to_store ON layers (try_at, created_at) WHERE NOT stored AND NOT lost;
CREATE INDEX layers_lost ON layers (id) WHERE lost;
CREATE INDEX layers_by_host ON layers (host_id) WHERE NOT stored;

-- All layers of a holder in one, of a holder that is gone.
DELETE FROM layer_refs WHERE position = -1
    AND NOT EXISTS (SELECT 1 FROM layer_refs o WHERE o.holder = layer_refs.holder AND o.position <> -1);
CREATE INDEX layer_refs_squashed ON layer_refs (holder) WHERE position = -1;

-- Of its template as it was: what its programs get and run as. Forks and snapshots have it from here.
ALTER TABLE sandboxes ADD COLUMN made_of JSONB;
