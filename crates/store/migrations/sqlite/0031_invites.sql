-- Invitations to sign up; only their SHA-256 is kept. (Numbered like the same step of MariaDB.)
CREATE TABLE invites (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token_sha256 TEXT NOT NULL,
    note TEXT NOT NULL,
    created_by INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left INTEGER NOT NULL,
    UNIQUE (token_sha256),
    CONSTRAINT invites_uses_left CHECK (uses_left >= 0)
) STRICT;
CREATE INDEX invites_expires_at ON invites (expires_at);
