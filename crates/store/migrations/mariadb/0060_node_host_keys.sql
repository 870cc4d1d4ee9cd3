-- Who has which host key: those that ssh accepts of a node (nodes.host_keys is the list for dialling, nodes.host_key_fp
-- the pinned one). The further ones of nodes that are there are added at the start.
CREATE TABLE IF NOT EXISTS node_host_keys (
    fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    node_id BIGINT NOT NULL,
    PRIMARY KEY (fingerprint),
    KEY node_host_keys_node_id (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO node_host_keys (fingerprint, node_id)
    SELECT host_key_fp, id FROM nodes WHERE host_key_fp IS NOT NULL;
