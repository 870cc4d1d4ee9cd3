-- A quarantine has a cause, since when it is, and before when it does not end by itself. `refusals`: accounts that the
-- node refused to make, in a row. Of those that were there only a changed host key is surely for an admin to judge.
ALTER TABLE nodes ADD COLUMN quarantine_cause TEXT
    CONSTRAINT nodes_quarantine_cause CHECK (quarantine_cause IN ('passing', 'cleaning', 'operator'));
ALTER TABLE nodes ADD COLUMN quarantine_since INTEGER;
ALTER TABLE nodes ADD COLUMN quarantine_until INTEGER;
ALTER TABLE nodes ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET quarantine_since = changed_at,
    quarantine_cause = CASE WHEN quarantine LIKE 'its host key %' THEN 'operator' ELSE 'passing' END
    WHERE quarantine IS NOT NULL;
