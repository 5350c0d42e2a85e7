-- Sessions of browsers (by cookie), and when a session was last seen.
ALTER TABLE sessions ADD COLUMN kind TEXT NOT NULL DEFAULT 'token';   -- token | browser
ALTER TABLE sessions ADD COLUMN secret_hash TEXT;                     -- of the cookie; NULL for tokens
ALTER TABLE sessions ADD COLUMN last_seen_at BIGINT;
CREATE UNIQUE INDEX sessions_by_secret ON sessions (secret_hash) WHERE secret_hash IS NOT NULL;

-- Grows with every change that can take a right away from somebody. What control knows of a caller's rights from
-- earlier requests counts only while this number, read anew for every request, is the one it was read under.
CREATE TABLE auth_version (
    one BIGINT PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO auth_version (one, version) VALUES (1, 1);

CREATE TRIGGER users_rights AFTER UPDATE ON users
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER users_gone AFTER DELETE ON users
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER teams_rights AFTER UPDATE ON teams
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER teams_gone AFTER DELETE ON teams
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER team_members_new AFTER INSERT ON team_members
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER team_members_rights AFTER UPDATE ON team_members
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER team_members_gone AFTER DELETE ON team_members
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER sessions_rights AFTER UPDATE ON sessions WHEN OLD.last_seen_at IS NEW.last_seen_at
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER api_keys_rights AFTER UPDATE ON api_keys WHEN OLD.last_used_at IS NEW.last_used_at
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER api_keys_gone AFTER DELETE ON api_keys
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER signing_keys_rights AFTER UPDATE ON signing_keys
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
CREATE TRIGGER signing_keys_new AFTER INSERT ON signing_keys
BEGIN UPDATE auth_version SET version = version + 1 WHERE one = 1; END;
