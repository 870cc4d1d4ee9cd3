#!/bin/bash
# Whether this worker's sshd answers with its banner.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/22
read -r -t 2 banner <&3
[[ $banner = SSH-* ]]
