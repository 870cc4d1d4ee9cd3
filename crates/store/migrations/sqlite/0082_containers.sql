-- Containers of leases. `wanted` is what their owner asked for, `state` what was last seen of them. Values of `env` and
-- `files` are in `spec_sealed` alone. `incarnation` grows whenever the container is to be made anew, as after a move.
CREATE TABLE containers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    lease_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    live_name TEXT,
    spec TEXT NOT NULL,
    spec_sealed BLOB NOT NULL,
    wanted TEXT NOT NULL,
    state TEXT NOT NULL,
    state_since INTEGER NOT NULL,
    reason TEXT,
    incarnation INTEGER NOT NULL DEFAULT 1,
    node_id INTEGER,
    engine_id TEXT,
    exit_code INTEGER,
    oom_killed INTEGER NOT NULL DEFAULT 0,
    step TEXT,
    bytes_done INTEGER,
    bytes_total INTEGER,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    seen_at INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 1,
    UNIQUE (uid),
    UNIQUE (lease_id, number),
    UNIQUE (lease_id, live_name),
    CONSTRAINT containers_wanted CHECK (wanted IN ('started', 'restarted', 'stopped', 'removed')),
    CONSTRAINT containers_state CHECK (state IN ('pending', 'pulling', 'running', 'exited', 'failed', 'removed')),
    CONSTRAINT containers_oom CHECK (oom_killed IN (0, 1)),
    CONSTRAINT containers_live CHECK ((live_name IS NULL) = (wanted = 'removed'))
) STRICT;
CREATE INDEX containers_state_node ON containers (state, node_id);
-- How many containers a lease has had: the number of the next one follows from it.
ALTER TABLE leases ADD COLUMN containers INTEGER NOT NULL DEFAULT 0;
-- The container engine of a node as it was last seen: version and API version; none where there is no engine.
ALTER TABLE nodes ADD COLUMN engine TEXT;
ALTER TABLE nodes ADD COLUMN engine_down_since INTEGER;
