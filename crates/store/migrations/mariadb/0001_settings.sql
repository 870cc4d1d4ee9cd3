-- Small values of the whole system, one a row (next_uid: the next uid of a lease account).
CREATE TABLE IF NOT EXISTS settings (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    value LONGTEXT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
