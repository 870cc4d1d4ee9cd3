#!/bin/sh
# Whether this worker's sshd answers with its banner.
nc -w 2 127.0.0.1 22 </dev/null | grep -q '^SSH-'
