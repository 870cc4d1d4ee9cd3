-- When a node's container engine is asked next what it is, and whether it answers.
ALTER TABLE nodes ADD COLUMN engine_next_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX nodes_engine_next_at ON nodes (engine_next_at);
