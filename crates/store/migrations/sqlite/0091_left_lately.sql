-- Nodes that leases with containers left lately are looked for each second.
CREATE INDEX lease_nodes_left ON lease_nodes (left_at) WHERE left_at IS NOT NULL;
