-- A node whose accounts are to be locked: since when that is ordered, and when what it rests on was seen (NULL: it is an
-- admin's word). `boot_ids`: the kernels that its agent named, the newest first (JSON).
ALTER TABLE nodes ADD COLUMN lock_ordered_at INTEGER;
ALTER TABLE nodes ADD COLUMN lock_observed_at INTEGER;
ALTER TABLE nodes ADD COLUMN boot_ids TEXT;
