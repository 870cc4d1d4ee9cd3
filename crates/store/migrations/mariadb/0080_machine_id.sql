-- SHA-256 of the machine id that the node's agent named; none in a container, whose image may have brought it.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS machine_id_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    ADD KEY IF NOT EXISTS nodes_machine_id (machine_id_sha256);
