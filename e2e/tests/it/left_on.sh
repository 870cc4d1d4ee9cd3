#!/bin/sh
# What there is of lease accounts on a worker, on every file system and for Debian's and BusyBox's tools: account
# entries, subordinate ids, lease files, homes, processes, files by owner, jobs and lingering users by name, IPC, FUSE
# mounts. One line each; nothing when it is clean.
#
# Uids that Orion gives out in a test are 200000 to 229999; those of a foreign worker (launch_workers/kinds.sh) lie
# above, and its user lena is no leaving; orion-probe is there for a moment at a time. Nobody but root writes below
# what is not searched, which a worker shares with the machine.
leased() { awk '$1 >= 200000 && $1 < 230000'; }

for file in /etc/passwd /etc/group; do awk -F: '{ print $3, "in", FILENAME ":", $0 }' $file | leased; done
grep -sHvE '^(root|lena|orion-probe):' /etc/subuid /etc/subgid
for directory in /var/lib/orion/leases /home /var/spool/cron/crontabs /var/lib/systemd/linger; do
    find $directory -mindepth 1 -maxdepth 1 ! -name lena ! -name orion-probe 2>/dev/null | sed 's/^/in /'
done
for process in /proc/[0-9]*; do
    uid=$(stat -c %u "$process" 2>/dev/null) || continue
    # What has ended runs no more, also where its parent has not asked how.
    ! grep -q '^State:.[ZX]' "$process/status" 2>/dev/null || continue
    [ "$uid" -lt 200000 ] || echo "$uid process ${process#/proc/} $(tr '\0' ' ' 2>/dev/null <"$process/cmdline")"
done | leased
find / \( -path /proc -o -path /sys -o -path /usr \) -prune -o -print0 2>/dev/null |
    xargs -0 stat -c '%u file %n' 2>/dev/null | leased
for kind in shm sem msg; do
    [ ! -e /proc/sysvipc/$kind ] || awk -v kind=$kind '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == "uid") at = i; next }
        { print $at, kind, $0 }' /proc/sysvipc/$kind | leased
done
sed -n 's/^[^ ]* \([^ ]*\) fuse[^ ]* .*user_id=\([0-9]*\).*/\2 fuse mount \1/p' /proc/mounts | leased
exit 0
