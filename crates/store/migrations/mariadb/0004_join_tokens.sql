-- Tokens with which workers join; only their SHA-256 is kept.
CREATE TABLE IF NOT EXISTS join_tokens (
    id BIGINT NOT NULL AUTO_INCREMENT,
    token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    note VARCHAR(255) NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    uses_left BIGINT,
    revoked BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (id),
    UNIQUE KEY join_tokens_token_sha256 (token_sha256),
    CONSTRAINT join_tokens_revoked CHECK (revoked IN (0, 1)),
    CONSTRAINT join_tokens_uses_left CHECK (uses_left >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
