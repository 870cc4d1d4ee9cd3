-- The way in: whether a probe account could log in (`node_seen.open_at`: when it last could), and how far the node's
-- clock is off the control plane's. (Numbered like the same step of MariaDB.)
ALTER TABLE nodes ADD COLUMN way_in TEXT NOT NULL DEFAULT 'unknown'
    CONSTRAINT nodes_way_in CHECK (way_in IN ('unknown', 'open', 'shut'));
ALTER TABLE nodes ADD COLUMN way_in_reason TEXT;
ALTER TABLE nodes ADD COLUMN way_in_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN way_in_by_agent INTEGER NOT NULL DEFAULT 0
    CONSTRAINT nodes_way_in_by_agent CHECK (way_in_by_agent IN (0, 1));
ALTER TABLE nodes ADD COLUMN clock_off_ms INTEGER;
ALTER TABLE node_seen ADD COLUMN open_at INTEGER;
