-- Who has which host key: those that ssh accepts of a node (nodes.host_keys is the list for dialling, nodes.host_key_fp
-- the pinned one). The further ones of nodes that are there are added at the start. (Numbered like the same step of
-- MariaDB.)
CREATE TABLE node_host_keys (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    node_id INTEGER NOT NULL
) STRICT;
CREATE INDEX node_host_keys_node_id ON node_host_keys (node_id);
INSERT OR IGNORE INTO node_host_keys (fingerprint, node_id)
    SELECT host_key_fp, id FROM nodes WHERE host_key_fp IS NOT NULL;
