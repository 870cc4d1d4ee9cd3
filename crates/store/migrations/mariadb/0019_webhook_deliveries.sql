-- One event for one webhook. A try under way is a claim: `next_try_at` is then when it counts as lost.
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id BIGINT NOT NULL AUTO_INCREMENT,
    webhook_id BIGINT NOT NULL,
    event_id BIGINT NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_try_at BIGINT NOT NULL,
    last_try_at BIGINT,
    claim_token CHAR(26) CHARACTER SET ascii COLLATE ascii_bin,
    status BIGINT,
    error TEXT,
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (id),
    UNIQUE KEY webhook_deliveries_once (webhook_id, event_id),
    KEY webhook_deliveries_due (state, webhook_id, next_try_at),
    KEY webhook_deliveries_last (webhook_id, last_try_at),
    KEY webhook_deliveries_done (done_at),
    CONSTRAINT webhook_deliveries_state CHECK (state IN ('pending', 'delivered', 'given_up')),
    CONSTRAINT webhook_deliveries_done_at CHECK ((done_at IS NULL) = (state = 'pending'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
