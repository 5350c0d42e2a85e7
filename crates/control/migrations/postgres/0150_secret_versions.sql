-- How many values a secret has had, and the labels that it bears: E2B's SDKs show both.
ALTER TABLE secrets ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE secrets ADD COLUMN metadata JSONB NOT NULL DEFAULT '{}';
