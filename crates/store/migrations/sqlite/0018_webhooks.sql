-- Where events are sent to. `position`: every event up to here was looked at for this webhook.
CREATE TABLE webhooks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    url TEXT NOT NULL,
    kinds TEXT NOT NULL,
    secret_sealed BLOB NOT NULL,
    position INTEGER NOT NULL,
    created_by INTEGER,
    created_at INTEGER NOT NULL,
    CONSTRAINT webhooks_uid UNIQUE (uid)
) STRICT;
