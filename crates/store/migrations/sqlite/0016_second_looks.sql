-- What one scheduler asks another before it gives a node up: does it answer you? NULL in `answers` with a time in
-- `answered_at` is "I cannot say". (Numbered like the same step of MariaDB.)
CREATE TABLE second_looks (
    node_id INTEGER NOT NULL,
    asked_by TEXT NOT NULL,
    asked_of TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    answered_at INTEGER,
    answers INTEGER,
    detail TEXT,
    PRIMARY KEY (node_id, asked_by),
    CONSTRAINT second_looks_answers CHECK (answers IN (0, 1)),
    CONSTRAINT second_looks_answered CHECK (answers IS NULL OR answered_at IS NOT NULL)
) STRICT;
CREATE INDEX second_looks_open ON second_looks (asked_of, answered_at);
