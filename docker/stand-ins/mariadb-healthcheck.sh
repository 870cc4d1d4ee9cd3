#!/bin/sh
# As in the official image: healthcheck.sh --connect --innodb_initialized
exec mariadb-admin --no-defaults --protocol=tcp --host=127.0.0.1 --user=nobody --connect-timeout=3 ping
