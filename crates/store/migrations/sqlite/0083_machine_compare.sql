-- Since when a node's machine id or boot id is news that is to be compared with the other nodes': two that have both are one
-- machine. It is kept while the brake is on.
ALTER TABLE nodes ADD COLUMN machine_compare_due INTEGER;
CREATE INDEX nodes_machine_compare_due ON nodes (machine_compare_due) WHERE machine_compare_due IS NOT NULL;
UPDATE nodes SET machine_compare_due = 0 WHERE machine_id_sha256 IS NOT NULL;
