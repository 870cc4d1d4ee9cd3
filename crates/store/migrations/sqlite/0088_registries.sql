-- Logins of users at registries of images; the password is sealed.
CREATE TABLE registry_logins (
    user_id INTEGER NOT NULL,
    registry TEXT NOT NULL,
    username TEXT NOT NULL,
    password_sealed BLOB NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, registry)
) STRICT;

-- Repositories that a registry gives to some users only, and who has shown for which node that they may have an image.
CREATE TABLE private_repositories (
    repository TEXT NOT NULL PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;
CREATE TABLE image_rights (
    node_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    image TEXT NOT NULL,
    shown_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, user_id, image)
) STRICT;
CREATE INDEX image_rights_shown ON image_rights (shown_at);
