-- The way in: whether a probe account could log in (`node_seen.open_at`: when it last could), and how far the node's
-- clock is off the control plane's.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS way_in VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'unknown',
    ADD COLUMN IF NOT EXISTS way_in_reason TEXT,
    ADD COLUMN IF NOT EXISTS way_in_since BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS way_in_by_agent BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS clock_off_ms BIGINT,
    ADD CONSTRAINT IF NOT EXISTS nodes_way_in CHECK (way_in IN ('unknown', 'open', 'shut')),
    ADD CONSTRAINT IF NOT EXISTS nodes_way_in_by_agent CHECK (way_in_by_agent IN (0, 1));
ALTER TABLE node_seen ADD COLUMN IF NOT EXISTS open_at BIGINT;
