-- The brake, off: the row is there from the start, so that whoever reads it before a node is given up locks it.
INSERT IGNORE INTO settings (name, value) VALUES ('brake', '{"engaged":false,"since":null}');
