-- An end that comes whatever the sandbox does, beside its idle timeout. Sandboxes without a row have none.
CREATE TABLE sandbox_lifetimes (
    sandbox_id TEXT PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
    lifetime_sec BIGINT NOT NULL,            -- what it has again after a resume
    ends_at BIGINT NOT NULL
);
CREATE INDEX sandbox_lifetimes_by_end ON sandbox_lifetimes (ends_at);
