-- What a container was made under, when its lease comes back to the node that it had left: the node, and the oldest
-- incarnation that was there. `oldest_incarnation` is the one from which on a found container is taken for it.
ALTER TABLE containers
    ADD COLUMN IF NOT EXISTS oldest_incarnation BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS home_node BIGINT,
    ADD COLUMN IF NOT EXISTS home_incarnation BIGINT,
    -- Start of the run that a restart is to end.
    ADD COLUMN IF NOT EXISTS restart_of BIGINT;

UPDATE containers SET oldest_incarnation = incarnation WHERE oldest_incarnation = 0;

ALTER TABLE containers
    ALTER COLUMN oldest_incarnation SET DEFAULT 1;

-- Engines that do not answer are looked for each second.
CREATE INDEX IF NOT EXISTS nodes_engine_down ON nodes (engine_down_since);
