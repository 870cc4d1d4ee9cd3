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
