-- A node whose accounts are to be locked: since when that is ordered, and when what it rests on was seen (NULL: it is an
-- admin's word). `boot_ids`: the kernels that its agent named, the newest first (JSON).
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS lock_ordered_at BIGINT,
    ADD COLUMN IF NOT EXISTS lock_observed_at BIGINT,
    ADD COLUMN IF NOT EXISTS boot_ids TEXT;
