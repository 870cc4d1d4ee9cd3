-- Nodes that leases with containers left lately are looked for each second.
CREATE INDEX IF NOT EXISTS lease_nodes_left ON lease_nodes (left_at);
