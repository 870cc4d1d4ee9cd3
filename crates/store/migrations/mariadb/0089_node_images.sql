-- Images that Orion pulled to a node: others are not its to remove. And the disk of the node's engine as it was last seen.
CREATE TABLE IF NOT EXISTS node_images (
    node_id BIGINT NOT NULL,
    image VARCHAR(640) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    pulled_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, image)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS node_disks (
    node_id BIGINT NOT NULL,
    looked_at BIGINT NOT NULL,
    free_mb BIGINT,
    total_mb BIGINT,
    PRIMARY KEY (node_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Why the disk of the node's engine is too full for containers; none where it is not.
ALTER TABLE nodes
    ADD COLUMN IF NOT EXISTS disk_full VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin;
