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
    PRIMARY KEY (id),
    UNIQUE KEY users_username (username),
    CONSTRAINT users_role CHECK (role IN ('user', 'admin'))
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

-- Machines. `applied_version < desired_version` is dirty; `lease_id` mirrors leases.occupies_node.
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
