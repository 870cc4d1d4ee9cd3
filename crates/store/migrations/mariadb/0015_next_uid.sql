-- The next uid of a lease account; placement raises it to the first of the configured range.
INSERT IGNORE INTO settings (name, value) VALUES ('next_uid', '0');
