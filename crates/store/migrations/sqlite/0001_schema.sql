-- One file: SQLite's DDL is transactional.

-- Small values of the whole system, one a row (next_uid: the next uid of a lease account).
CREATE TABLE settings (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
) STRICT;

-- Keys of the control plane, sealed by their owner.
CREATE TABLE sealed_values (
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (name)
) STRICT;

-- Accounts of the API.
CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    token_generation INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (username),
    CONSTRAINT users_role CHECK (role IN ('user', 'admin'))
) STRICT;

-- Tokens with which workers join; only their SHA-256 is kept.
CREATE TABLE join_tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token_sha256 TEXT NOT NULL,
    note TEXT NOT NULL,
    created_by INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    uses_left INTEGER,
    revoked INTEGER NOT NULL DEFAULT 0,
    UNIQUE (token_sha256),
    CONSTRAINT join_tokens_revoked CHECK (revoked IN (0, 1)),
    CONSTRAINT join_tokens_uses_left CHECK (uses_left >= 0)
) STRICT;

-- Machines. `applied_version < desired_version` is dirty; `lease_id` mirrors leases.occupies_node.
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hostname TEXT NOT NULL,
    addr TEXT NOT NULL,
    ssh_port INTEGER NOT NULL,
    host_keys TEXT NOT NULL,
    host_key_fp TEXT,
    seen_fingerprint TEXT,
    seen_key TEXT,
    admission TEXT NOT NULL,
    health TEXT NOT NULL,
    health_reason TEXT NOT NULL,
    health_since INTEGER NOT NULL,
    quarantine TEXT,
    cordon TEXT,
    link TEXT NOT NULL,
    link_since INTEGER NOT NULL,
    link_replica TEXT,
    link_epoch INTEGER NOT NULL DEFAULT 0,
    agent_sees_sshd INTEGER,
    cpu_cores INTEGER,
    memory_mb INTEGER,
    gpus TEXT NOT NULL,
    mac TEXT,
    agent_version TEXT,
    tags TEXT NOT NULL,
    subordinate_uids TEXT NOT NULL,
    node_token_sha256 TEXT,
    registration_sha256 TEXT NOT NULL,
    desired_version INTEGER NOT NULL,
    applied_version INTEGER NOT NULL,
    lease_id INTEGER,
    claimed_by TEXT,
    claim_token TEXT,
    claimed_until INTEGER,
    epoch INTEGER NOT NULL,
    reconcile_failures INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER NOT NULL DEFAULT 0,
    last_clean_report TEXT,
    last_clean_at INTEGER,
    registered_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    UNIQUE (hostname),
    UNIQUE (addr, ssh_port),
    UNIQUE (host_key_fp),
    UNIQUE (node_token_sha256),
    UNIQUE (lease_id),
    CONSTRAINT nodes_ssh_port CHECK (ssh_port BETWEEN 1 AND 65535),
    CONSTRAINT nodes_admission CHECK (admission IN ('pending', 'reported', 'admitted')),
    CONSTRAINT nodes_health CHECK (health IN ('unknown', 'alive', 'suspect', 'unreachable', 'dead')),
    CONSTRAINT nodes_link CHECK (link IN ('none', 'up', 'lost')),
    CONSTRAINT nodes_sees_sshd CHECK (agent_sees_sshd IN (0, 1)),
    CONSTRAINT nodes_versions CHECK (applied_version <= desired_version),
    CONSTRAINT nodes_claim CHECK ((claim_token IS NULL) = (claimed_until IS NULL))
) STRICT;
CREATE INDEX nodes_placement ON nodes (admission, health, lease_id);
CREATE INDEX nodes_changed_at ON nodes (changed_at);

-- Tags of nodes, for placement (nodes.tags is the list for people).
CREATE TABLE node_tags (
    node_id INTEGER NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (node_id, tag)
) STRICT;
CREATE INDEX node_tags_tag ON node_tags (tag);

-- When a node last answered; written in batches, apart from nodes.
CREATE TABLE node_seen (
    node_id INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (node_id)
) STRICT;

-- Nodes that a reset forgot: with this token and this host key they may register again.
CREATE TABLE forgotten_nodes (
    node_token_sha256 TEXT NOT NULL,
    host_key_fp TEXT NOT NULL,
    forgotten_at INTEGER NOT NULL,
    PRIMARY KEY (node_token_sha256)
) STRICT;

-- Processes of the control plane, and their last beat.
CREATE TABLE replicas (
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    beat_at INTEGER NOT NULL,
    PRIMARY KEY (name, kind)
) STRICT;

-- Leases. `occupies_node` is the node that no other lease may have; `live_name` frees the name at the end.
CREATE TABLE leases (
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
    UNIQUE (uid),
    UNIQUE (user_id, live_name),
    UNIQUE (account_uid),
    UNIQUE (occupies_node),
    CONSTRAINT leases_state CHECK (state IN ('provisioning', 'active', 'migrating', 'releasing', 'ended')),
    CONSTRAINT leases_on_node_loss CHECK (on_node_loss IN ('migrate', 'wait', 'end')),
    CONSTRAINT leases_occupies CHECK ((occupies_node IS NULL) = (state = 'ended')),
    CONSTRAINT leases_ended_at CHECK ((ended_at IS NULL) = (state <> 'ended')),
    CONSTRAINT leases_migrating CHECK ((from_node IS NULL) = (state <> 'migrating')),
    CONSTRAINT leases_wiped CHECK (state <> 'ended' OR password_hash = ''),
    CONSTRAINT leases_name_freed CHECK (live_name IS NULL OR state <> 'ended'),
    CONSTRAINT leases_finish CHECK (finish_after_crash IN (0, 1))
) STRICT;
CREATE INDEX leases_state_until ON leases (state, leased_until);
CREATE INDEX leases_user ON leases (user_id, id);
CREATE INDEX leases_request_key ON leases (request_key);

-- Which nodes a lease has been on.
CREATE TABLE lease_nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lease_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    left_at INTEGER,
    why TEXT
) STRICT;
CREATE INDEX lease_nodes_lease ON lease_nodes (lease_id, id);

-- Nodes that cannot hold a certain lease (its user name exists there).
CREATE TABLE lease_unfit (
    lease_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (lease_id, node_id)
) STRICT;

-- What happened: audit log, event feed and timeline.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    lease_id INTEGER,
    node_id INTEGER,
    user_id INTEGER,
    data TEXT NOT NULL,
    UNIQUE (uid)
) STRICT;
CREATE INDEX events_at ON events (at);
CREATE INDEX events_lease ON events (lease_id, id);
CREATE INDEX events_node ON events (node_id, id);
CREATE INDEX events_user ON events (user_id, id);

-- Requests that carried an Idempotency-Key.
CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key_sha256 TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    request_key TEXT,
    secrets_sealed BLOB,
    reply_status INTEGER,
    reply_sealed BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key_sha256),
    CONSTRAINT idempotency_state CHECK (state IN ('running', 'done')),
    CONSTRAINT idempotency_reply CHECK ((state = 'done') = (reply_status IS NOT NULL))
) STRICT;
CREATE INDEX idempotency_expires_at ON idempotency (expires_at);
CREATE INDEX idempotency_request_key ON idempotency (request_key);

-- The next uid of a lease account; placement raises it to the first of the configured range.
INSERT OR IGNORE INTO settings (name, value) VALUES ('next_uid', '0');
