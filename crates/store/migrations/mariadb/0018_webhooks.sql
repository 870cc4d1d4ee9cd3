-- Where events are sent to. `position`: every event up to here was looked at for this webhook.
CREATE TABLE IF NOT EXISTS webhooks (
    id BIGINT NOT NULL AUTO_INCREMENT,
    uid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    url TEXT NOT NULL,
    kinds LONGTEXT NOT NULL,
    secret_sealed LONGBLOB NOT NULL,
    position BIGINT NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY webhooks_uid (uid)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
