-- Images that Orion pulled to a node: others are not its to remove. And the disk of the node's engine as it was last seen.
CREATE TABLE node_images (
    node_id INTEGER NOT NULL,
    image TEXT NOT NULL,
    pulled_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, image)
) STRICT;
CREATE TABLE node_disks (
    node_id INTEGER NOT NULL PRIMARY KEY,
    looked_at INTEGER NOT NULL,
    free_mb INTEGER,
    total_mb INTEGER
) STRICT;

-- Why the disk of the node's engine is too full for containers; none where it is not.
ALTER TABLE nodes ADD COLUMN disk_full TEXT;
