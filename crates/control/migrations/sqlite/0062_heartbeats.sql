-- Heartbeats that say nothing new are written without touching an index.
ALTER TABLE hosts ADD COLUMN told TEXT;      -- hash of what seldom changes in a heartbeat, as it was last written
DROP INDEX hosts_by_status;
CREATE INDEX hosts_by_status ON hosts (status);
-- The first use of a refresh token ends its parent and its unused siblings.
CREATE INDEX host_refresh_tokens_by_parent ON host_refresh_tokens (parent_id) WHERE parent_id IS NOT NULL;
