-- Heartbeats that say nothing new are written without touching an index: the new version of the row stays on its page.
ALTER TABLE hosts ADD COLUMN told TEXT;      -- hash of what seldom changes in a heartbeat, as it was last written
DROP INDEX hosts_by_status;
CREATE INDEX hosts_by_status ON hosts (status);
ALTER TABLE hosts SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.5, autovacuum_analyze_scale_factor = 1);
-- The first use of a refresh token ends its parent and its unused siblings.
CREATE INDEX host_refresh_tokens_by_parent ON host_refresh_tokens (parent_id) WHERE parent_id IS NOT NULL;
