-- One event for one webhook. A try under way is a claim: `next_try_at` is then when it counts as lost.
CREATE TABLE webhook_deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id INTEGER NOT NULL,
    event_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_at INTEGER NOT NULL,
    last_try_at INTEGER,
    claim_token TEXT,
    status INTEGER,
    error TEXT,
    created_at INTEGER NOT NULL,
    done_at INTEGER,
    CONSTRAINT webhook_deliveries_once UNIQUE (webhook_id, event_id),
    CONSTRAINT webhook_deliveries_state CHECK (state IN ('pending', 'delivered', 'given_up')),
    CONSTRAINT webhook_deliveries_done_at CHECK ((done_at IS NULL) = (state = 'pending'))
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (state, webhook_id, next_try_at);
CREATE INDEX webhook_deliveries_last ON webhook_deliveries (webhook_id, last_try_at);
CREATE INDEX webhook_deliveries_done ON webhook_deliveries (done_at);
