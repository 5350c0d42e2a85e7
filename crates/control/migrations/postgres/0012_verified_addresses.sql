-- Whether an account's address was proven to be its owner's: not by an open sign-up, nor by an invitation that was handed on.
ALTER TABLE users ADD COLUMN email_verified BOOLEAN NOT NULL DEFAULT TRUE;
