-- Requests that carried an Idempotency-Key.
CREATE TABLE IF NOT EXISTS idempotency (
    scope VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    key_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    body_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    request_key VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    secrets_sealed LONGBLOB,
    reply_status BIGINT,
    reply_sealed LONGBLOB,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (scope, key_sha256),
    KEY idempotency_expires_at (expires_at),
    KEY idempotency_request_key (request_key),
    CONSTRAINT idempotency_state CHECK (state IN ('running', 'done')),
    CONSTRAINT idempotency_reply CHECK ((state = 'done') = (reply_status IS NOT NULL))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
