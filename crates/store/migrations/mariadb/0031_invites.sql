-- Invitations to sign up; only their SHA-256 is kept.
CREATE TABLE IF NOT EXISTS invites (
    id BIGINT NOT NULL AUTO_INCREMENT,
    token_sha256 VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    note VARCHAR(255) NOT NULL,
    created_by BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    uses_left BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY invites_token_sha256 (token_sha256),
    KEY invites_expires_at (expires_at),
    CONSTRAINT invites_uses_left CHECK (uses_left >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
