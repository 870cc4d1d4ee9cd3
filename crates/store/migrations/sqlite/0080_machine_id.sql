-- SHA-256 of the machine id that the node's agent named; none in a container, whose image may have brought it.
ALTER TABLE nodes ADD COLUMN machine_id_sha256 TEXT;
CREATE INDEX nodes_machine_id ON nodes (machine_id_sha256);
