-- A placement takes no claim: until then the scheduler leaves the node to who placed a lease there and provisions it.
ALTER TABLE nodes ADD COLUMN first_turn_until INTEGER NOT NULL DEFAULT 0;
