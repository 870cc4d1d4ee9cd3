-- What a node has for leases by its last report, less what is kept for itself; cpu_milli is never below what is held.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS cpu_reported BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS memory_reported_mb BIGINT NOT NULL DEFAULT 0;
UPDATE nodes SET cpu_reported = COALESCE(cpu_cores, 0) * 1000, memory_reported_mb = COALESCE(memory_mb, 0);
