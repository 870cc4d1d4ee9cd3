-- Tickets with which owners come in at the ports of their containers, each good once.
CREATE TABLE app_tickets (
    sha256 TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (sha256)
) STRICT;
CREATE INDEX app_tickets_expires_at ON app_tickets (expires_at);
