#!/bin/bash
# What the official image does with MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD_FILE and
# MARIADB_ROOT_PASSWORD_FILE: at the first start it makes the database and the accounts, then serves.
set -euo pipefail
data=/var/lib/mysql
mkdir -p /run/mysqld
chown mysql /run/mysqld "$data"
set -- "$@" --user=mysql --bind-address=0.0.0.0 --skip-name-resolve --datadir="$data" --innodb-use-native-aio=0
if [ ! -d "$data/mysql" ]; then
    mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal >/dev/null
    quoted() { printf "'%s'" "$(sed "s/[\\\\']/\\\\&/g" "$1")"; }
    (
        umask 077
        cat >"$data/first-start.sql" <<SQL
CREATE DATABASE \`$MARIADB_DATABASE\`;
CREATE USER '$MARIADB_USER'@'%' IDENTIFIED BY $(quoted "$MARIADB_PASSWORD_FILE");
GRANT ALL ON \`$MARIADB_DATABASE\`.* TO '$MARIADB_USER'@'%';
ALTER USER root@localhost IDENTIFIED BY $(quoted "$MARIADB_ROOT_PASSWORD_FILE");
SQL
    )
    chown mysql "$data/first-start.sql"
    set -- "$@" --init-file="$data/first-start.sql"
else
    rm -f "$data/first-start.sql"
fi
exec "$@"
