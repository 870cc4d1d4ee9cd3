-- Nodes that cannot hold a certain lease (its user name exists there).
CREATE TABLE IF NOT EXISTS lease_unfit (
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (lease_id, node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
