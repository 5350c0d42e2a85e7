-- Named values of a team, encrypted under a key that is not in the database; never read back.
CREATE TABLE secrets (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    key_id TEXT NOT NULL,                    -- which key it is encrypted under
    sealed TEXT NOT NULL,                    -- nonce, ciphertext and tag, base64; bound to team and id
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (team_id, name)
);
CREATE INDEX secrets_by_team ON secrets (team_id, created_at, id);
