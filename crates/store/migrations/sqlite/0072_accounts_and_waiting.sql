-- Leases that give no login have no account: all of it, or nothing. Leases that wait for a node have none, or had one. SQLite
-- changes no column and no CHECK: the table is made anew.
CREATE TABLE leases_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    name TEXT,
    live_name TEXT,
    client_user TEXT,
    account_uid INTEGER,
    password_hash TEXT,
    public_key TEXT,
    state TEXT NOT NULL,
    state_since INTEGER NOT NULL,
    state_reason TEXT,
    node_id INTEGER,
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
    CONSTRAINT leases_state CHECK (state IN ('requested', 'scheduled', 'queued', 'provisioning', 'active', 'migrating', 'yielding',
        'releasing', 'ended')),
    CONSTRAINT leases_on_node_loss CHECK (on_node_loss IN ('migrate', 'wait', 'end')),
    CONSTRAINT leases_occupies CHECK ((occupies_node IS NULL) = (state IN ('requested', 'scheduled', 'queued', 'ended'))),
    CONSTRAINT leases_ended_at CHECK ((ended_at IS NULL) = (state <> 'ended')),
    CONSTRAINT leases_migrating CHECK ((from_node IS NULL) = (state <> 'migrating')),
    CONSTRAINT leases_wiped CHECK (state <> 'ended' OR password_hash = ''),
    CONSTRAINT leases_name_freed CHECK (live_name IS NULL OR state <> 'ended'),
    CONSTRAINT leases_finish CHECK (finish_after_crash IN (0, 1)),
    CONSTRAINT leases_origin CHECK (origin IN ('rental', 'booking', 'deployment', 'job')),
    CONSTRAINT leases_holding CHECK (
        (holding = 'whole' AND cpu_milli = 0 AND memory_mb = 0) OR (holding = 'slice' AND cpu_milli > 0 AND memory_mb > 0)),
    CONSTRAINT leases_account CHECK ((client_user IS NULL) = (account_uid IS NULL)
        AND (client_user IS NULL) = (password_hash IS NULL) AND (client_user IS NOT NULL OR public_key IS NULL))
) STRICT;
INSERT INTO leases_new (id, uid, user_id, name, live_name, client_user, account_uid, password_hash, public_key, state, state_since, state_reason, node_id, from_node, occupies_node, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, deadline_applied, ended_at, version, origin, holding, cpu_milli, memory_mb)
    SELECT id, uid, user_id, name, live_name, client_user, account_uid, password_hash, public_key, state, state_since, state_reason, node_id, from_node, occupies_node, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, deadline_applied, ended_at, version, origin, holding, cpu_milli, memory_mb FROM leases;
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
