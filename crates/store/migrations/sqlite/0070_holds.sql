-- Capacity: what a lease holds of a node. `nodes.lease_id` is the lease that has the node whole; slices count in
-- `cpu_held` and `memory_held_mb`. `unclean`: something of an earlier life may be there, so nothing is placed on the
-- node; apart from it `applied_version < desired_version` says that work is pending for a lease. (Numbered like the same step of
-- MariaDB.)

CREATE TABLE orgs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (name)
) STRICT;

-- Nodes that are planned together. The general pool belongs to no organization.
CREATE TABLE pools (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    org_id INTEGER,
    queue_version INTEGER NOT NULL DEFAULT 0,
    UNIQUE (name)
) STRICT;
INSERT INTO pools (id, name) VALUES (1, 'general');

ALTER TABLE nodes ADD COLUMN pool_id INTEGER NOT NULL DEFAULT 1;
ALTER TABLE nodes ADD COLUMN transport TEXT NOT NULL DEFAULT 'ssh'
    CONSTRAINT nodes_transport CHECK (transport IN ('ssh', 'pull'));
ALTER TABLE nodes ADD COLUMN unclean INTEGER NOT NULL DEFAULT 1 CONSTRAINT nodes_unclean CHECK (unclean IN (0, 1));
ALTER TABLE nodes ADD COLUMN cpu_milli INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN cpu_held INTEGER NOT NULL DEFAULT 0
    CONSTRAINT nodes_cpu CHECK (cpu_held BETWEEN 0 AND cpu_milli);
ALTER TABLE nodes ADD COLUMN memory_capacity_mb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN memory_held_mb INTEGER NOT NULL DEFAULT 0
    CONSTRAINT nodes_memory CHECK (memory_held_mb BETWEEN 0 AND memory_capacity_mb)
    CONSTRAINT nodes_whole CHECK (lease_id IS NULL OR (cpu_held = 0 AND memory_held_mb = 0));
ALTER TABLE nodes ADD COLUMN calendar_version INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET cpu_milli = COALESCE(cpu_cores, 0) * 1000, memory_capacity_mb = COALESCE(memory_mb, 0);
UPDATE nodes SET unclean = 0 WHERE applied_version = desired_version;

-- A lease holds a whole node, which no other lease may hold then, or a slice of it. SQLite drops no UNIQUE of a table:
-- the table is made anew. Numbers that were given out are not given out again.
CREATE TABLE leases_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    name TEXT,
    live_name TEXT,
    client_user TEXT NOT NULL,
    account_uid INTEGER NOT NULL,
    password_hash TEXT NOT NULL,
    public_key TEXT,
    state TEXT NOT NULL,
    state_since INTEGER NOT NULL,
    state_reason TEXT,
    node_id INTEGER NOT NULL,
    from_node INTEGER,
    occupies_node INTEGER,
    leased_from INTEGER NOT NULL,
    leased_until INTEGER NOT NULL,
    on_node_loss TEXT NOT NULL,
    tags TEXT NOT NULL,
    request_key TEXT NOT NULL,
    finish_after_crash INTEGER NOT NULL,
    deadline_applied INTEGER,
    ended_at INTEGER,
    version INTEGER NOT NULL DEFAULT 1,
    origin TEXT NOT NULL DEFAULT 'rental',
    holding TEXT NOT NULL DEFAULT 'whole',
    cpu_milli INTEGER NOT NULL DEFAULT 0,
    memory_mb INTEGER NOT NULL DEFAULT 0,
    UNIQUE (uid),
    UNIQUE (user_id, live_name),
    UNIQUE (account_uid),
    CONSTRAINT leases_state CHECK (state IN ('provisioning', 'active', 'migrating', 'releasing', 'ended')),
    CONSTRAINT leases_on_node_loss CHECK (on_node_loss IN ('migrate', 'wait', 'end')),
    CONSTRAINT leases_occupies CHECK ((occupies_node IS NULL) = (state = 'ended')),
    CONSTRAINT leases_ended_at CHECK ((ended_at IS NULL) = (state <> 'ended')),
    CONSTRAINT leases_migrating CHECK ((from_node IS NULL) = (state <> 'migrating')),
    CONSTRAINT leases_wiped CHECK (state <> 'ended' OR password_hash = ''),
    CONSTRAINT leases_name_freed CHECK (live_name IS NULL OR state <> 'ended'),
    CONSTRAINT leases_finish CHECK (finish_after_crash IN (0, 1)),
    CONSTRAINT leases_origin CHECK (origin IN ('rental', 'booking', 'deployment', 'job')),
    CONSTRAINT leases_holding CHECK (
        (holding = 'whole' AND cpu_milli = 0 AND memory_mb = 0) OR (holding = 'slice' AND cpu_milli > 0 AND memory_mb > 0))
) STRICT;
INSERT INTO leases_new (id, uid, user_id, name, live_name, client_user, account_uid, password_hash, public_key, state, state_since, state_reason, node_id, from_node, occupies_node, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, deadline_applied, ended_at, version)
    SELECT id, uid, user_id, name, live_name, client_user, account_uid, password_hash, public_key, state, state_since, state_reason, node_id, from_node, occupies_node, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, deadline_applied, ended_at, version FROM leases;
DELETE FROM sqlite_sequence WHERE name = 'leases_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'leases_new', seq FROM sqlite_sequence WHERE name = 'leases';
DROP TABLE leases;
ALTER TABLE leases_new RENAME TO leases;
CREATE UNIQUE INDEX leases_whole_node ON leases (occupies_node) WHERE holding = 'whole';
CREATE INDEX leases_occupied ON leases (occupies_node);
CREATE INDEX leases_state_until ON leases (state, leased_until);
CREATE INDEX leases_user ON leases (user_id, id);
CREATE INDEX leases_request_key ON leases (request_key);
CREATE INDEX leases_ended ON leases (ended_at);

-- What each lease holds of each node. `leaving`: its account may still be there while the lease is `arriving` at, or
-- has become `current` on, another one. `desired` and `applied` count the changes to what the node is to hold of it.
CREATE TABLE holds (
    lease_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    role TEXT NOT NULL,
    whole INTEGER NOT NULL,
    cpu_milli INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    desired INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    PRIMARY KEY (lease_id, node_id),
    UNIQUE (lease_id, role),
    CONSTRAINT holds_known_role CHECK (role IN ('current', 'arriving', 'leaving')),
    CONSTRAINT holds_whole CHECK ((whole = 1 AND cpu_milli = 0 AND memory_mb = 0)
        OR (whole = 0 AND cpu_milli > 0 AND memory_mb > 0)),
    CONSTRAINT holds_versions CHECK (applied BETWEEN 0 AND desired)
) STRICT;
CREATE INDEX holds_node ON holds (node_id);
INSERT OR IGNORE INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, desired, applied)
    SELECT l.id, l.occupies_node,
        CASE WHEN l.state = 'migrating' AND l.occupies_node <> l.from_node THEN 'arriving' ELSE 'current' END,
        1, 0, 0, 1, CASE WHEN n.applied_version = n.desired_version THEN 1 ELSE 0 END
    FROM leases l JOIN nodes n ON n.id = l.occupies_node;
-- A drained node whose lease is on its way to another one keeps the login until that one has confirmed it.
INSERT OR IGNORE INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, desired, applied)
    SELECT l.id, l.from_node, 'leaving', 1, 0, 0, 1, 0 FROM leases l JOIN nodes n ON n.id = l.from_node
    WHERE l.state = 'migrating' AND l.occupies_node <> l.from_node AND n.health <> 'dead' AND n.drain_since IS NOT NULL;

CREATE TABLE gpus (
    node_id INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    number INTEGER NOT NULL,
    model TEXT NOT NULL,
    memory_mb INTEGER NOT NULL,
    present INTEGER NOT NULL,
    lease_id INTEGER,
    PRIMARY KEY (node_id, uuid),
    CONSTRAINT gpus_present CHECK (present IN (0, 1))
) STRICT;
CREATE INDEX gpus_lease ON gpus (lease_id);

CREATE TABLE ports (
    node_id INTEGER NOT NULL,
    port INTEGER NOT NULL,
    lease_id INTEGER NOT NULL,
    PRIMARY KEY (node_id, port),
    CONSTRAINT ports_port CHECK (port BETWEEN 1 AND 65535)
) STRICT;
CREATE INDEX ports_lease ON ports (lease_id);

CREATE TABLE networks (
    node_id INTEGER NOT NULL,
    subnet TEXT NOT NULL,
    lease_id INTEGER NOT NULL,
    PRIMARY KEY (node_id, subnet)
) STRICT;
CREATE INDEX networks_lease ON networks (lease_id);

-- When a lease has, or will have, what of a node. Half-open: [starts_at, ends_at).
CREATE TABLE windows (
    lease_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    starts_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    cpu_milli INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    PRIMARY KEY (lease_id, node_id),
    CONSTRAINT windows_kind CHECK (kind IN ('hold', 'promise')),
    CONSTRAINT windows_order CHECK (starts_at < ends_at)
) STRICT;
CREATE INDEX windows_node ON windows (node_id, ends_at);
