-- What one scheduler asks another before it gives a node up: does it answer you? NULL in `answers` with a time in
-- `answered_at` is "I cannot say".
CREATE TABLE IF NOT EXISTS second_looks (
    node_id BIGINT NOT NULL,
    asked_by VARCHAR(255) NOT NULL,
    asked_of VARCHAR(255) NOT NULL,
    asked_at BIGINT NOT NULL,
    answered_at BIGINT,
    answers BIGINT,
    detail TEXT,
    PRIMARY KEY (node_id, asked_by),
    KEY second_looks_open (asked_of, answered_at),
    CONSTRAINT second_looks_answers CHECK (answers IN (0, 1)),
    CONSTRAINT second_looks_answered CHECK (answers IS NULL OR answered_at IS NOT NULL)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
