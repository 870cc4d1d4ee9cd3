#!/bin/sh
# Shows ssh the password of a test (SSH_ASKPASS).
exec cat "$ORION_TEST_PASSWORD_FILE"
