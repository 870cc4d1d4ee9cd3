-- A slice may hold GPU devices, too: how many; which ones stands in `gpus.lease_id`.
ALTER TABLE leases
    ADD COLUMN IF NOT EXISTS gpus BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS leases_gpus CHECK (gpus >= 0 AND (holding = 'slice' OR gpus = 0));
ALTER TABLE holds
    ADD COLUMN IF NOT EXISTS gpus BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS holds_gpus CHECK (gpus >= 0 AND (whole = 0 OR gpus = 0));
