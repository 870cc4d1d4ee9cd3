-- Accounts that are shut, and quotas of their own (NULL: as the settings say). `placements` is counted up by each
-- placement: those of one account come one after the other, and none passes a quota beside another.
ALTER TABLE users
    ADD COLUMN IF NOT EXISTS disabled_at BIGINT,
    ADD COLUMN IF NOT EXISTS placements BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS quota_nodes BIGINT,
    ADD COLUMN IF NOT EXISTS quota_lease_hours BIGINT,
    ADD COLUMN IF NOT EXISTS quota_streams BIGINT,
    ADD COLUMN IF NOT EXISTS quota_keys BIGINT,
    ADD CONSTRAINT IF NOT EXISTS users_quotas CHECK (
        quota_nodes >= 0 AND quota_lease_hours >= 0 AND quota_streams >= 0 AND quota_keys >= 0);
