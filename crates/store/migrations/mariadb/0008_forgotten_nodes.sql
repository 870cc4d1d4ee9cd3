-- Nodes that a reset forgot: with this token and this host key they may register again.
CREATE TABLE IF NOT EXISTS forgotten_nodes (
    node_token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    host_key_fp VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    forgotten_at BIGINT NOT NULL,
    PRIMARY KEY (node_token_sha256)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
