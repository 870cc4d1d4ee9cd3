-- A node's ports that lead to containers. `freed_at`: nobody uses it any more, 0 until somebody has written since when; it
-- stays taken until the proxies have forgotten it. `containers.node_ports`: port of the container:port of the node, with commas.
ALTER TABLE ports
    ADD COLUMN IF NOT EXISTS container_id BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS public BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS freed_at BIGINT,
    ADD KEY IF NOT EXISTS ports_freed (freed_at);
ALTER TABLE containers
    ADD COLUMN IF NOT EXISTS node_ports VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin;
