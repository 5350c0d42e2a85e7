-- The secret that a webhook had before its present one, and until when deliveries are signed with both.

ALTER TABLE webhooks ADD COLUMN former_secret TEXT;
ALTER TABLE webhooks ADD COLUMN former_secret_until BIGINT;
