-- Capacity: what a lease holds of a node. `nodes.lease_id` is the lease that has the node whole; slices count in
-- `cpu_held` and `memory_held_mb`. `unclean`: something of an earlier life may be there, so nothing is placed on the
-- node; apart from it `applied_version < desired_version` says that work is pending for a lease.
CREATE TABLE IF NOT EXISTS orgs (
    id BIGINT NOT NULL AUTO_INCREMENT,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY orgs_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Nodes that are planned together. The general pool belongs to no organization.
CREATE TABLE IF NOT EXISTS pools (
    id BIGINT NOT NULL AUTO_INCREMENT,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    org_id BIGINT,
    queue_version BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (id),
    UNIQUE KEY pools_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO pools (id, name) VALUES (1, 'general');

ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS pool_id BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS transport VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'ssh',
    ADD COLUMN IF NOT EXISTS unclean BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS cpu_milli BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cpu_held BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS memory_capacity_mb BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS memory_held_mb BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS calendar_version BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS nodes_transport CHECK (transport IN ('ssh', 'pull')),
    ADD CONSTRAINT IF NOT EXISTS nodes_unclean CHECK (unclean IN (0, 1)),
    ADD CONSTRAINT IF NOT EXISTS nodes_cpu CHECK (cpu_held BETWEEN 0 AND cpu_milli),
    ADD CONSTRAINT IF NOT EXISTS nodes_memory CHECK (memory_held_mb BETWEEN 0 AND memory_capacity_mb),
    ADD CONSTRAINT IF NOT EXISTS nodes_whole CHECK (lease_id IS NULL OR (cpu_held = 0 AND memory_held_mb = 0));
UPDATE nodes SET cpu_milli = COALESCE(cpu_cores, 0) * 1000 WHERE cpu_milli = 0;
UPDATE nodes SET memory_capacity_mb = COALESCE(memory_mb, 0) WHERE memory_capacity_mb = 0;
UPDATE nodes SET unclean = 0 WHERE applied_version = desired_version;

-- A lease holds a whole node, which no other lease may hold then (`whole_node`), or a slice of it.
ALTER TABLE leases
    DROP INDEX IF EXISTS leases_occupies_node,
    ADD COLUMN IF NOT EXISTS origin VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'rental',
    ADD COLUMN IF NOT EXISTS holding VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'whole',
    ADD COLUMN IF NOT EXISTS cpu_milli BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS memory_mb BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS whole_node BIGINT AS (CASE WHEN holding = 'whole' THEN occupies_node END) STORED,
    ADD UNIQUE KEY IF NOT EXISTS leases_whole_node (whole_node),
    ADD KEY IF NOT EXISTS leases_occupied (occupies_node),
    ADD CONSTRAINT IF NOT EXISTS leases_origin CHECK (origin IN ('rental', 'booking', 'deployment', 'job')),
    ADD CONSTRAINT IF NOT EXISTS leases_holding CHECK (
        (holding = 'whole' AND cpu_milli = 0 AND memory_mb = 0) OR (holding = 'slice' AND cpu_milli > 0 AND memory_mb > 0));

-- What each lease holds of each node. `leaving`: its account may still be there while the lease is `arriving` at, or
-- has become `current` on, another one. `desired` and `applied` count the changes to what the node is to hold of it.
CREATE TABLE IF NOT EXISTS holds (
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    role VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    whole BIGINT NOT NULL,
    cpu_milli BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    desired BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    PRIMARY KEY (lease_id, node_id),
    UNIQUE KEY holds_role (lease_id, role),
    KEY holds_node (node_id),
    CONSTRAINT holds_known_role CHECK (role IN ('current', 'arriving', 'leaving')),
    CONSTRAINT holds_whole CHECK ((whole = 1 AND cpu_milli = 0 AND memory_mb = 0)
        OR (whole = 0 AND cpu_milli > 0 AND memory_mb > 0)),
    CONSTRAINT holds_versions CHECK (applied BETWEEN 0 AND desired)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, desired, applied)
    SELECT l.id, l.occupies_node,
        CASE WHEN l.state = 'migrating' AND l.occupies_node <> l.from_node THEN 'arriving' ELSE 'current' END,
        1, 0, 0, 1, CASE WHEN n.applied_version = n.desired_version THEN 1 ELSE 0 END
    FROM leases l JOIN nodes n ON n.id = l.occupies_node;
-- A drained node whose lease is on its way to another one keeps the login until that one has confirmed it.
INSERT IGNORE INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, desired, applied)
    SELECT l.id, l.from_node, 'leaving', 1, 0, 0, 1, 0 FROM leases l JOIN nodes n ON n.id = l.from_node
    WHERE l.state = 'migrating' AND l.occupies_node <> l.from_node AND n.health <> 'dead' AND n.drain_since IS NOT NULL;

CREATE TABLE IF NOT EXISTS gpus (
    node_id BIGINT NOT NULL,
    uuid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    number BIGINT NOT NULL,
    model VARCHAR(255) NOT NULL,
    memory_mb BIGINT NOT NULL,
    present BIGINT NOT NULL,
    lease_id BIGINT,
    PRIMARY KEY (node_id, uuid),
    KEY gpus_lease (lease_id),
    CONSTRAINT gpus_present CHECK (present IN (0, 1))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS ports (
    node_id BIGINT NOT NULL,
    port BIGINT NOT NULL,
    lease_id BIGINT NOT NULL,
    PRIMARY KEY (node_id, port),
    KEY ports_lease (lease_id),
    CONSTRAINT ports_port CHECK (port BETWEEN 1 AND 65535)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS networks (
    node_id BIGINT NOT NULL,
    subnet VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    lease_id BIGINT NOT NULL,
    PRIMARY KEY (node_id, subnet),
    KEY networks_lease (lease_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- When a lease has, or will have, what of a node. Half-open: [starts_at, ends_at).
CREATE TABLE IF NOT EXISTS windows (
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    starts_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    whole BIGINT NOT NULL,
    cpu_milli BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    gpus BIGINT NOT NULL,
    PRIMARY KEY (lease_id, node_id),
    KEY windows_node (node_id, ends_at),
    CONSTRAINT windows_kind CHECK (kind IN ('hold', 'promise')),
    CONSTRAINT windows_order CHECK (starts_at < ends_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
