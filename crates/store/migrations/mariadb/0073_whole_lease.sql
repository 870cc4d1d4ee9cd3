-- `whole_lease` is the lease that has the node whole. A node that only dials out (`pull`) has no address and no host key.
ALTER TABLE nodes
    DROP CONSTRAINT IF EXISTS nodes_whole;
ALTER TABLE nodes
    RENAME COLUMN IF EXISTS lease_id TO whole_lease;
ALTER TABLE nodes
    MODIFY COLUMN addr VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin,
    MODIFY COLUMN ssh_port BIGINT,
    MODIFY COLUMN host_keys LONGTEXT,
    ADD CONSTRAINT IF NOT EXISTS nodes_whole CHECK (whole_lease IS NULL OR (cpu_held = 0 AND memory_held_mb = 0)),
    ADD CONSTRAINT IF NOT EXISTS nodes_reached CHECK ((addr IS NULL) = (ssh_port IS NULL) AND (addr IS NULL) = (host_keys IS NULL)
        AND (transport = 'pull' OR addr IS NOT NULL));
