-- Keys of the control plane, sealed by their owner.
CREATE TABLE IF NOT EXISTS sealed_values (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    sealed LONGBLOB NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
