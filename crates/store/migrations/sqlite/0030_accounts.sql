-- Accounts that are shut, and quotas of their own (NULL: as the settings say). `placements` is counted up by each
-- placement, as on MariaDB. (Numbered like the same step of MariaDB.)
ALTER TABLE users ADD COLUMN disabled_at INTEGER;
ALTER TABLE users ADD COLUMN placements INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN quota_nodes INTEGER CONSTRAINT users_quota_nodes CHECK (quota_nodes >= 0);
ALTER TABLE users ADD COLUMN quota_lease_hours INTEGER
    CONSTRAINT users_quota_lease_hours CHECK (quota_lease_hours >= 0);
ALTER TABLE users ADD COLUMN quota_streams INTEGER CONSTRAINT users_quota_streams CHECK (quota_streams >= 0);
ALTER TABLE users ADD COLUMN quota_keys INTEGER CONSTRAINT users_quota_keys CHECK (quota_keys >= 0);
