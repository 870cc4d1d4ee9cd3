-- Draining: a node is emptied. `cordon` (why it takes no new leases) is the reason.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS drain_since BIGINT,
    ADD COLUMN IF NOT EXISTS drain_deadline BIGINT,
    ADD COLUMN IF NOT EXISTS drained_at BIGINT,
    ADD KEY IF NOT EXISTS nodes_drain (drained_at, drain_since),
    ADD CONSTRAINT IF NOT EXISTS nodes_drain CHECK ((cordon IS NULL) = (drain_since IS NULL)),
    ADD CONSTRAINT IF NOT EXISTS nodes_drain_times
        CHECK (drain_since IS NOT NULL OR (drain_deadline IS NULL AND drained_at IS NULL));
