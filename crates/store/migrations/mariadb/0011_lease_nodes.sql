-- Which nodes a lease has been on.
CREATE TABLE IF NOT EXISTS lease_nodes (
    id BIGINT NOT NULL AUTO_INCREMENT,
    lease_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    left_at BIGINT,
    why TEXT,
    PRIMARY KEY (id),
    KEY lease_nodes_lease (lease_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
