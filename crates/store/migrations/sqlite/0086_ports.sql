-- A node's ports that lead to containers. `freed_at`: nobody uses it any more, 0 until somebody has written since when; it
-- stays taken until the proxies have forgotten it. `containers.node_ports`: port of the container:port of the node, with commas.
ALTER TABLE ports ADD COLUMN container_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN public INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN freed_at INTEGER;
CREATE INDEX ports_freed ON ports (freed_at);
ALTER TABLE containers ADD COLUMN node_ports TEXT;
