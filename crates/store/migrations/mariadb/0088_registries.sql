-- Logins of users at registries of images; the password is sealed.
CREATE TABLE IF NOT EXISTS registry_logins (
    user_id BIGINT NOT NULL,
    registry VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    username VARCHAR(255) NOT NULL,
    password_sealed LONGBLOB NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, registry)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Repositories that a registry gives to some users only, and who has shown for which node that they may have an image.
CREATE TABLE IF NOT EXISTS private_repositories (
    repository VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (repository)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS image_rights (
    node_id BIGINT NOT NULL,
    user_id BIGINT NOT NULL,
    image VARCHAR(640) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    shown_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, user_id, image),
    KEY image_rights_shown (shown_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
