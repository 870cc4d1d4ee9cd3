#!/bin/bash
# Makes the secrets of docker-compose.yml in docker/secrets, once. What is there already stays: without the
# master key the database's authorities and tokens are lost, and the database keeps its first passwords.
set -euo pipefail
directory=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/secrets}
umask 077
mkdir -p "$directory"
# Docker mounts the files as they are, and the services in there are not root: so the files may be read, and
# the directory keeps everybody else on this machine out.
chmod 700 "$directory"
make() { # NAME; its content is on stdin
    [ -s "$directory/$1" ] || { cat >"$directory/$1.new" && mv "$directory/$1.new" "$directory/$1"; }
    chmod 444 "$directory/$1"
}
word() { openssl rand -hex 20 | tr -d '\n'; }
command -v openssl >/dev/null || {
    echo "docker/make-secrets.sh: openssl is missing" >&2
    echo "hint: apt-get install openssl" >&2
    exit 1
}
openssl rand -base64 32 | tr -d '\n' | make master_key
word | make database_root_password
word | make database_password
printf 'mysql://orion:%s@mariadb:3306/orion' "$(cat "$directory/database_password")" | make database_url
word | make admin_password
echo "The secrets are in $directory; keep a copy of master_key apart from the database's backups."
echo "The first admin is 'admin', with the password in $directory/admin_password."
