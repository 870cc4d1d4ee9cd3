-- What happened: audit log, event feed and timeline.
CREATE TABLE IF NOT EXISTS events (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    at BIGINT NOT NULL,
    kind VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    lease_id BIGINT,
    node_id BIGINT,
    user_id BIGINT,
    data LONGTEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY events_uid (uid),
    KEY events_at (at),
    KEY events_lease (lease_id, id),
    KEY events_node (node_id, id),
    KEY events_user (user_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
