-- Paused sandboxes on their way from a host that is drained to another one, and why those stay that stay. A row is there
-- only while its sandbox is paused: what begins to run, or ends, is on its way nowhere.
CREATE TABLE sandbox_moves (
    sandbox_id TEXT PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
    id TEXT NOT NULL,                        -- of this very move; `mov-` and it hold what its files are
    generation BIGINT NOT NULL,              -- of the sandbox, as the move has seen or set it last
    to_host TEXT,                            -- it is being made there; no foreign key: the row is only a wish
    attempts BIGINT NOT NULL,
    try_at BIGINT NOT NULL,
    problem TEXT                             -- why it is not there yet
);
CREATE INDEX sandbox_moves_by_host ON sandbox_moves (to_host) WHERE to_host IS NOT NULL;

CREATE TRIGGER sandboxes_end_move AFTER UPDATE OF status ON sandboxes WHEN OLD.status = 'paused' AND NEW.status <> 'paused'
BEGIN
    DELETE FROM sandbox_moves WHERE sandbox_id = NEW.id;
END;

CREATE TRIGGER sandbox_moves_release_layers AFTER DELETE ON sandbox_moves
BEGIN
    DELETE FROM layer_refs WHERE holder = 'mov-' || OLD.id;
END;

-- Changes of what a sandbox may reach are counted, so that its host can be told what it has missed, and not what is old.
ALTER TABLE sandboxes ADD COLUMN network_generation BIGINT NOT NULL DEFAULT 0;
