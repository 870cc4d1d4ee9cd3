-- The brake, off: the row is there from the start. (Numbered like the same step of MariaDB.)
INSERT OR IGNORE INTO settings (name, value) VALUES ('brake', '{"engaged":false,"since":null}');
