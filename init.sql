-- The whole schema of Orion on MariaDB. `orion up` and the services make it themselves (migrations in
-- crates/store/migrations/mariadb); this file is for those who want to make it beforehand or to read it.
-- It is the migrations in one file; a test compares the two. Every statement may be repeated.

-- Small values of the whole system, one a row (next_uid: the next uid of a lease account).
CREATE TABLE IF NOT EXISTS settings (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    value LONGTEXT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Keys of the control plane, sealed by their owner.
CREATE TABLE IF NOT EXISTS sealed_values (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    sealed LONGBLOB NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Accounts of the API.
CREATE TABLE IF NOT EXISTS users (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    role VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_generation BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT,
    placements BIGINT NOT NULL DEFAULT 0,
    quota_nodes BIGINT,
    quota_lease_hours BIGINT,
    quota_streams BIGINT,
    quota_keys BIGINT,
    PRIMARY KEY (id),
    UNIQUE KEY users_username (username),
    CONSTRAINT users_role CHECK (role IN ('user', 'admin')),
    CONSTRAINT users_quotas CHECK (
        quota_nodes >= 0 AND quota_lease_hours >= 0 AND quota_streams >= 0 AND quota_keys >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Tokens with which workers join; only their SHA-256 is kept.
CREATE TABLE IF NOT EXISTS join_tokens (
    id BIGINT NOT NULL AUTO_INCREMENT,
    token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    note VARCHAR(255) NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    uses_left BIGINT,
    revoked BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (id),
    UNIQUE KEY join_tokens_token_sha256 (token_sha256),
    CONSTRAINT join_tokens_revoked CHECK (revoked IN (0, 1)),
    CONSTRAINT join_tokens_uses_left CHECK (uses_left >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Invitations to sign up; only their SHA-256 is kept.
CREATE TABLE IF NOT EXISTS invites (
    id BIGINT NOT NULL AUTO_INCREMENT,
    token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    note VARCHAR(255) NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    uses_left BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY invites_token_sha256 (token_sha256),
    KEY invites_expires_at (expires_at),
    CONSTRAINT invites_uses_left CHECK (uses_left >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Machines. `applied_version < desired_version` is dirty; `lease_id` (`whole_lease` below) mirrors leases.occupies_node.
CREATE TABLE IF NOT EXISTS nodes (
    id BIGINT NOT NULL AUTO_INCREMENT,
    hostname VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    addr VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    ssh_port BIGINT NOT NULL,
    host_keys LONGTEXT NOT NULL,
    host_key_fp VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    seen_fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    seen_key TEXT,
    admission VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    health VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    health_reason TEXT NOT NULL,
    health_since BIGINT NOT NULL,
    quarantine TEXT,
    cordon TEXT,
    link VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    link_since BIGINT NOT NULL,
    link_replica VARCHAR(255),
    link_epoch BIGINT NOT NULL DEFAULT 0,
    agent_sees_sshd BIGINT,
    cpu_cores BIGINT,
    memory_mb BIGINT,
    gpus LONGTEXT NOT NULL,
    mac VARCHAR(255),
    agent_version VARCHAR(255),
    tags LONGTEXT NOT NULL,
    subordinate_uids LONGTEXT NOT NULL,
    node_token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    registration_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    desired_version BIGINT NOT NULL,
    applied_version BIGINT NOT NULL,
    lease_id BIGINT,
    claimed_by VARCHAR(255),
    claim_token CHAR(26) CHARACTER SET ascii COLLATE ascii_bin,
    claimed_until BIGINT,
    epoch BIGINT NOT NULL,
    reconcile_failures BIGINT NOT NULL DEFAULT 0,
    retry_at BIGINT NOT NULL DEFAULT 0,
    last_clean_report LONGTEXT,
    last_clean_at BIGINT,
    registered_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    version BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (id),
    UNIQUE KEY nodes_hostname (hostname),
    UNIQUE KEY nodes_addr (addr, ssh_port),
    UNIQUE KEY nodes_host_key_fp (host_key_fp),
    UNIQUE KEY nodes_node_token (node_token_sha256),
    UNIQUE KEY nodes_lease_id (lease_id),
    KEY nodes_placement (admission, health, lease_id),
    KEY nodes_changed_at (changed_at),
    CONSTRAINT nodes_ssh_port CHECK (ssh_port BETWEEN 1 AND 65535),
    CONSTRAINT nodes_admission CHECK (admission IN ('pending', 'reported', 'admitted')),
    CONSTRAINT nodes_health CHECK (health IN ('unknown', 'alive', 'suspect', 'unreachable', 'dead')),
    CONSTRAINT nodes_link CHECK (link IN ('none', 'up', 'lost')),
    CONSTRAINT nodes_sees_sshd CHECK (agent_sees_sshd IN (0, 1)),
    CONSTRAINT nodes_versions CHECK (applied_version <= desired_version),
    CONSTRAINT nodes_claim CHECK ((claim_token IS NULL) = (claimed_until IS NULL))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Tags of nodes, for placement (nodes.tags is the list for people).
CREATE TABLE IF NOT EXISTS node_tags (
    node_id BIGINT NOT NULL,
    tag VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (node_id, tag),
    KEY node_tags_tag (tag)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- When a node last answered; written in batches, apart from nodes.
CREATE TABLE IF NOT EXISTS node_seen (
    node_id BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Nodes that a reset forgot: with this token and this host key they may register again.
CREATE TABLE IF NOT EXISTS forgotten_nodes (
    node_token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    host_key_fp VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    forgotten_at BIGINT NOT NULL,
    PRIMARY KEY (node_token_sha256)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Processes of the control plane, and their last beat.
CREATE TABLE IF NOT EXISTS replicas (
    name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    beat_at BIGINT NOT NULL,
    tasks TEXT,
    PRIMARY KEY (name, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Leases. `occupies_node` is the node that no other lease may have; `live_name` frees the name at the end.
CREATE TABLE IF NOT EXISTS leases (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id BIGINT NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    live_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    client_user VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    account_uid BIGINT NOT NULL,
    password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    public_key TEXT,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state_since BIGINT NOT NULL,
    state_reason TEXT,
    node_id BIGINT NOT NULL,
    from_node BIGINT,
    occupies_node BIGINT,
    leased_from BIGINT NOT NULL,
    leased_until BIGINT NOT NULL,
    on_node_loss VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tags LONGTEXT NOT NULL,
    request_key VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    finish_after_crash BIGINT NOT NULL,
    deadline_applied BIGINT,
    ended_at BIGINT,
    version BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (id),
    UNIQUE KEY leases_uid (uid),
    UNIQUE KEY leases_live_name (user_id, live_name),
    UNIQUE KEY leases_account_uid (account_uid),
    UNIQUE KEY leases_occupies_node (occupies_node),
    KEY leases_state_until (state, leased_until),
    KEY leases_user (user_id, id),
    KEY leases_request_key (request_key),
    CONSTRAINT leases_state CHECK (state IN ('provisioning', 'active', 'migrating', 'releasing', 'ended')),
    CONSTRAINT leases_on_node_loss CHECK (on_node_loss IN ('migrate', 'wait', 'end')),
    CONSTRAINT leases_occupies CHECK ((occupies_node IS NULL) = (state = 'ended')),
    CONSTRAINT leases_ended_at CHECK ((ended_at IS NULL) = (state <> 'ended')),
    CONSTRAINT leases_migrating CHECK ((from_node IS NULL) = (state <> 'migrating')),
    CONSTRAINT leases_wiped CHECK (state <> 'ended' OR password_hash = ''),
    CONSTRAINT leases_name_freed CHECK (live_name IS NULL OR state <> 'ended'),
    CONSTRAINT leases_finish CHECK (finish_after_crash IN (0, 1))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which nodes a lease has been on.
CREATE TABLE IF NOT EXISTS lease_nodes (
    id BIGINT NOT NULL AUTO_INCREMENT,
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    left_at BIGINT,
    why TEXT,
    PRIMARY KEY (id),
    KEY lease_nodes_lease (lease_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Nodes that cannot hold a certain lease (its user name exists there).
CREATE TABLE IF NOT EXISTS lease_unfit (
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (lease_id, node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What happened: audit log, event feed and timeline.
CREATE TABLE IF NOT EXISTS events (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    at BIGINT NOT NULL,
    kind VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    lease_id BIGINT,
    node_id BIGINT,
    user_id BIGINT,
    data LONGTEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY events_uid (uid),
    KEY events_at (at),
    KEY events_lease (lease_id, id),
    KEY events_node (node_id, id),
    KEY events_user (user_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Requests that carried an Idempotency-Key.
CREATE TABLE IF NOT EXISTS idempotency (
    scope VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    key_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    body_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    request_key VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    secrets_sealed LONGBLOB,
    reply_status BIGINT,
    reply_sealed LONGBLOB,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (scope, key_sha256),
    KEY idempotency_expires_at (expires_at),
    KEY idempotency_request_key (request_key),
    CONSTRAINT idempotency_state CHECK (state IN ('running', 'done')),
    CONSTRAINT idempotency_reply CHECK ((state = 'done') = (reply_status IS NOT NULL))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What one scheduler asks another before it gives a node up: does it answer you? NULL in `answers` with a time in
-- `answered_at` is "I cannot say".
CREATE TABLE IF NOT EXISTS second_looks (
    node_id BIGINT NOT NULL,
    asked_by VARCHAR(255) NOT NULL,
    asked_of VARCHAR(255) NOT NULL,
    asked_at BIGINT NOT NULL,
    answered_at BIGINT,
    answers BIGINT,
    detail TEXT,
    PRIMARY KEY (node_id, asked_by),
    KEY second_looks_open (asked_of, answered_at),
    CONSTRAINT second_looks_answers CHECK (answers IN (0, 1)),
    CONSTRAINT second_looks_answered CHECK (answers IS NULL OR answered_at IS NOT NULL)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Draining: a node is emptied. `cordon` (why it takes no new leases) is the reason.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS drain_since BIGINT,
    ADD COLUMN IF NOT EXISTS drain_deadline BIGINT,
    ADD COLUMN IF NOT EXISTS drained_at BIGINT,
    ADD KEY IF NOT EXISTS nodes_drain (drained_at, drain_since),
    ADD CONSTRAINT IF NOT EXISTS nodes_drain CHECK ((cordon IS NULL) = (drain_since IS NULL)),
    ADD CONSTRAINT IF NOT EXISTS nodes_drain_times
        CHECK (drain_since IS NOT NULL OR (drain_deadline IS NULL AND drained_at IS NULL));

-- Where events are sent to. `position`: every event up to here was looked at for this webhook.
CREATE TABLE IF NOT EXISTS webhooks (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    url TEXT NOT NULL,
    kinds LONGTEXT NOT NULL,
    secret_sealed LONGBLOB NOT NULL,
    position BIGINT NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY webhooks_uid (uid)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One event for one webhook. A try under way is a claim: `next_try_at` is then when it counts as lost.
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id BIGINT NOT NULL AUTO_INCREMENT,
    webhook_id BIGINT NOT NULL,
    event_id BIGINT NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_try_at BIGINT NOT NULL,
    last_try_at BIGINT,
    claim_token CHAR(26) CHARACTER SET ascii COLLATE ascii_bin,
    status BIGINT,
    error TEXT,
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (id),
    UNIQUE KEY webhook_deliveries_once (webhook_id, event_id),
    KEY webhook_deliveries_due (state, webhook_id, next_try_at),
    KEY webhook_deliveries_last (webhook_id, last_try_at),
    KEY webhook_deliveries_done (done_at),
    CONSTRAINT webhook_deliveries_state CHECK (state IN ('pending', 'delivered', 'given_up')),
    CONSTRAINT webhook_deliveries_done_at CHECK ((done_at IS NULL) = (state = 'pending'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The next uid of a lease account; placement raises it to the first of the configured range.
INSERT IGNORE INTO settings (name, value) VALUES ('next_uid', '0');

-- The brake, off: the row is there from the start, so that whoever reads it before a node is given up locks it.
INSERT IGNORE INTO settings (name, value) VALUES ('brake', '{"engaged":false,"since":null}');

-- The leases of the last hour, for the checks of every minute.
ALTER TABLE leases ADD KEY IF NOT EXISTS leases_ended (ended_at);

-- A quarantine has a cause, since when it is, and before when it does not end by itself. `refusals`: accounts that the
-- node refused to make, in a row. Of those that were there only a changed host key is surely for an admin to judge.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS quarantine_cause VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,
    ADD COLUMN IF NOT EXISTS quarantine_since BIGINT,
    ADD COLUMN IF NOT EXISTS quarantine_until BIGINT,
    ADD COLUMN IF NOT EXISTS refusals BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS nodes_quarantine_cause
        CHECK (quarantine_cause IN ('passing', 'cleaning', 'operator'));
UPDATE nodes SET quarantine_since = changed_at,
    quarantine_cause = CASE WHEN quarantine LIKE 'its host key %' THEN 'operator' ELSE 'passing' END
    WHERE quarantine IS NOT NULL AND quarantine_cause IS NULL;

-- A node whose accounts are to be locked: since when that is ordered, and when what it rests on was seen (NULL: it is an
-- admin's word). `boot_ids`: the kernels that its agent named, the newest first (JSON).
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS lock_ordered_at BIGINT,
    ADD COLUMN IF NOT EXISTS lock_observed_at BIGINT,
    ADD COLUMN IF NOT EXISTS boot_ids TEXT;

-- When a second machine was refused that came with the identity of this node, while the node's link beat.
ALTER TABLE nodes ADD COLUMN IF NOT EXISTS second_machine_at BIGINT;

-- The way in: whether a probe account could log in (`node_seen.open_at`: when it last could), and how far the node's
-- clock is off the control plane's.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS way_in VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'unknown',
    ADD COLUMN IF NOT EXISTS way_in_reason TEXT,
    ADD COLUMN IF NOT EXISTS way_in_since BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS way_in_by_agent BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS clock_off_ms BIGINT,
    ADD CONSTRAINT IF NOT EXISTS nodes_way_in CHECK (way_in IN ('unknown', 'open', 'shut')),
    ADD CONSTRAINT IF NOT EXISTS nodes_way_in_by_agent CHECK (way_in_by_agent IN (0, 1));
ALTER TABLE node_seen ADD COLUMN IF NOT EXISTS open_at BIGINT;

-- Who has which host key: those that ssh accepts of a node (nodes.host_keys is the list for dialling, nodes.host_key_fp
-- the pinned one). The further ones of nodes that are there are added at the start.
CREATE TABLE IF NOT EXISTS node_host_keys (
    fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    node_id BIGINT NOT NULL,
    PRIMARY KEY (fingerprint),
    KEY node_host_keys_node_id (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO node_host_keys (fingerprint, node_id)
    SELECT host_key_fp, id FROM nodes WHERE host_key_fp IS NOT NULL;

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

-- A placement takes no claim: until then the scheduler leaves the node to who placed a lease there and provisions it.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS first_turn_until BIGINT NOT NULL DEFAULT 0;

-- Leases that give no login have no account: all of it, or nothing. Leases that wait for a node have none, or had one.
ALTER TABLE leases
    DROP CONSTRAINT IF EXISTS leases_state,
    DROP CONSTRAINT IF EXISTS leases_occupies;
ALTER TABLE leases
    MODIFY COLUMN client_user VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin,
    MODIFY COLUMN account_uid BIGINT,
    MODIFY COLUMN password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    MODIFY COLUMN node_id BIGINT,
    ADD CONSTRAINT IF NOT EXISTS leases_state CHECK (state IN ('requested', 'scheduled', 'queued', 'provisioning', 'active', 'migrating', 'yielding', 'releasing', 'ended')),
    ADD CONSTRAINT IF NOT EXISTS leases_occupies CHECK ((occupies_node IS NULL) = (state IN ('requested', 'scheduled', 'queued', 'ended'))),
    ADD CONSTRAINT IF NOT EXISTS leases_account CHECK ((client_user IS NULL) = (account_uid IS NULL)
        AND (client_user IS NULL) = (password_hash IS NULL) AND (client_user IS NOT NULL OR public_key IS NULL));

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

-- SHA-256 of the machine id that the node's agent named; none in a container, whose image may have brought it.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS machine_id_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    ADD KEY IF NOT EXISTS nodes_machine_id (machine_id_sha256);

-- A slice may hold GPU devices, too: how many; which ones stands in `gpus.lease_id`.
ALTER TABLE leases
    ADD COLUMN IF NOT EXISTS gpus BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS leases_gpus CHECK (gpus >= 0 AND (holding = 'slice' OR gpus = 0));
ALTER TABLE holds
    ADD COLUMN IF NOT EXISTS gpus BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT IF NOT EXISTS holds_gpus CHECK (gpus >= 0 AND (whole = 0 OR gpus = 0));
-- Containers of leases. `wanted` is what their owner asked for, `state` what was last seen of them. Values of `env` and
-- `files` are in `spec_sealed` alone. `incarnation` grows whenever the container is to be made anew, as after a move.
CREATE TABLE IF NOT EXISTS containers (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    lease_id BIGINT NOT NULL,
    number BIGINT NOT NULL,
    name VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    live_name VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin,
    spec LONGTEXT NOT NULL,
    spec_sealed LONGBLOB NOT NULL,
    wanted VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state_since BIGINT NOT NULL,
    reason LONGTEXT,
    incarnation BIGINT NOT NULL DEFAULT 1,
    node_id BIGINT,
    engine_id VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin,
    exit_code BIGINT,
    oom_killed BIGINT NOT NULL DEFAULT 0,
    step VARCHAR(64),
    bytes_done BIGINT,
    bytes_total BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    seen_at BIGINT NOT NULL DEFAULT 0,
    version BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (id),
    UNIQUE KEY containers_uid (uid),
    UNIQUE KEY containers_number (lease_id, number),
    UNIQUE KEY containers_live_name (lease_id, live_name),
    KEY containers_state_node (state, node_id),
    CONSTRAINT containers_wanted CHECK (wanted IN ('started', 'restarted', 'stopped', 'removed')),
    CONSTRAINT containers_state CHECK (state IN ('pending', 'pulling', 'running', 'exited', 'failed', 'removed')),
    CONSTRAINT containers_oom CHECK (oom_killed IN (0, 1)),
    CONSTRAINT containers_live CHECK ((live_name IS NULL) = (wanted = 'removed'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How many containers a lease has had: the number of the next one follows from it.
ALTER TABLE leases
    ADD COLUMN IF NOT EXISTS containers BIGINT NOT NULL DEFAULT 0;

-- The container engine of a node as it was last seen: version and API version; none where there is no engine.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS engine VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    ADD COLUMN IF NOT EXISTS engine_down_since BIGINT;

-- Since when a node's machine id or boot id is news that is to be compared with the other nodes': two that have both are one
-- machine. It is kept while the brake is on.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS machine_compare_due BIGINT,
    ADD KEY IF NOT EXISTS nodes_machine_compare_due (machine_compare_due);
UPDATE nodes SET machine_compare_due = 0 WHERE machine_id_sha256 IS NOT NULL;

-- When a node's container engine is asked next what it is, and whether it answers.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS engine_next_at BIGINT NOT NULL DEFAULT 0,
    ADD KEY IF NOT EXISTS nodes_engine_next_at (engine_next_at);

-- What a node has for leases by its last report, less what is kept for itself; cpu_milli is never below what is held.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS cpu_reported BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS memory_reported_mb BIGINT NOT NULL DEFAULT 0;

-- A node's ports that lead to containers. `freed_at`: nobody uses it any more, 0 until somebody has written since when; it
-- stays taken until the proxies have forgotten it. `containers.node_ports`: port of the container:port of the node, with commas.
ALTER TABLE ports
    ADD COLUMN IF NOT EXISTS container_id BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS public BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS freed_at BIGINT,
    ADD KEY IF NOT EXISTS ports_freed (freed_at);
ALTER TABLE containers
    ADD COLUMN IF NOT EXISTS node_ports VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin;

-- Tickets with which owners come in at the ports of their containers, each good once.
CREATE TABLE IF NOT EXISTS app_tickets (
    sha256 CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (sha256),
    KEY app_tickets_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Logins of users at registries of images; the password is sealed.
CREATE TABLE IF NOT EXISTS registry_logins (
    user_id BIGINT NOT NULL,
    registry VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    username VARCHAR(255) NOT NULL,
    password_sealed LONGBLOB NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, registry)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Repositories that a registry gives to some users only, and who has shown for which node that they may have an image.
CREATE TABLE IF NOT EXISTS private_repositories (
    repository VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (repository)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS image_rights (
    node_id BIGINT NOT NULL,
    user_id BIGINT NOT NULL,
    image VARCHAR(640) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    shown_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, user_id, image),
    KEY image_rights_shown (shown_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Images that Orion pulled to a node: others are not its to remove. And the disk of the node's engine as it was last seen.
CREATE TABLE IF NOT EXISTS node_images (
    node_id BIGINT NOT NULL,
    image VARCHAR(640) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    pulled_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, image)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS node_disks (
    node_id BIGINT NOT NULL,
    looked_at BIGINT NOT NULL,
    free_mb BIGINT,
    total_mb BIGINT,
    PRIMARY KEY (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Why the disk of the node's engine is too full for containers; none where it is not.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS disk_full VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin;

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

-- Nodes that leases with containers left lately are looked for each second.
CREATE INDEX IF NOT EXISTS lease_nodes_left ON lease_nodes (left_at);
