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
