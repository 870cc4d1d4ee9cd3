-- What a container was made under, when its lease comes back to the node that it had left: the node, and the oldest
-- incarnation that was there. `oldest_incarnation` is the one from which on a found container is taken for it.
ALTER TABLE containers ADD COLUMN oldest_incarnation INTEGER NOT NULL DEFAULT 1;
ALTER TABLE containers ADD COLUMN home_node INTEGER;
ALTER TABLE containers ADD COLUMN home_incarnation INTEGER;
-- Start of the run that a restart is to end.
ALTER TABLE containers ADD COLUMN restart_of INTEGER;
UPDATE containers SET oldest_incarnation = incarnation;
-- Engines that do not answer are looked for each second.
CREATE INDEX nodes_engine_down ON nodes (engine_down_since) WHERE engine_down_since IS NOT NULL;
