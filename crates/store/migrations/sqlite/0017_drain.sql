-- Draining: a node is emptied. `cordon` (why it takes no new leases) is the reason. (Numbered like the same step of
-- MariaDB.)
ALTER TABLE nodes ADD COLUMN drain_since INTEGER
    CONSTRAINT nodes_drain CHECK ((cordon IS NULL) = (drain_since IS NULL));
ALTER TABLE nodes ADD COLUMN drain_deadline INTEGER
    CONSTRAINT nodes_drain_deadline CHECK (drain_since IS NOT NULL OR drain_deadline IS NULL);
ALTER TABLE nodes ADD COLUMN drained_at INTEGER
    CONSTRAINT nodes_drained_at CHECK (drain_since IS NOT NULL OR drained_at IS NULL);
CREATE INDEX nodes_drain ON nodes (drained_at, drain_since);
