-- Processes of the control plane, and their last beat.
CREATE TABLE IF NOT EXISTS replicas (
    name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    beat_at BIGINT NOT NULL,
    PRIMARY KEY (name, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
