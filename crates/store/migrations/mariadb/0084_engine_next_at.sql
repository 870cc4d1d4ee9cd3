-- When a node's container engine is asked next what it is, and whether it answers.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS engine_next_at BIGINT NOT NULL DEFAULT 0,
    ADD KEY IF NOT EXISTS nodes_engine_next_at (engine_next_at);
