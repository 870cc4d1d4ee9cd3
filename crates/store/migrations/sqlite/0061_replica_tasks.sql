-- How the background tasks of a scheduler are, as JSON; NULL for what has none, or is of an older version.
ALTER TABLE replicas ADD COLUMN tasks TEXT;
