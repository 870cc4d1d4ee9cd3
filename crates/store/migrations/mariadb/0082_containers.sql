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
