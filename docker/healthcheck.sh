#!/bin/bash
# healthcheck.sh PORT: whether this container's service answers GET /api/live. Only that: a database that is
# away must not get every replica restarted.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET /api/live HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]
