-- When a node last answered; written in batches, apart from nodes.
CREATE TABLE IF NOT EXISTS node_seen (
    node_id BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
