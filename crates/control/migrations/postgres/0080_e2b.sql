-- Builds whose client says first that there will be one, then uploads files, then says what is to be built.
ALTER TABLE template_builds ADD COLUMN tags JSONB NOT NULL DEFAULT '[]';    -- its names in its template, once it is ready

-- Who has one may upload the files of one COPY, without a key.
CREATE TABLE upload_tickets (
    hash TEXT PRIMARY KEY,                   -- SHA-256 of the ticket, hex
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    files TEXT NOT NULL,                     -- the hash that the COPY knows them by
    expires_at BIGINT NOT NULL
);
CREATE INDEX upload_tickets_by_end ON upload_tickets (expires_at);

-- Whether a sandbox that is paused at its end keeps its memory, or its files alone.
ALTER TABLE sandbox_lifetimes ADD COLUMN keep_memory BOOLEAN NOT NULL DEFAULT TRUE;
