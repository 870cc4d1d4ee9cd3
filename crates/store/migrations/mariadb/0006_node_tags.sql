-- Tags of nodes, for placement (nodes.tags is the list for people).
CREATE TABLE IF NOT EXISTS node_tags (
    node_id BIGINT NOT NULL,
    tag VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (node_id, tag),
    KEY node_tags_tag (tag)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
