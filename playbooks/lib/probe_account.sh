# The probe account: made for one probe of the way in (lib/way_in.sh), removed after it. Its password is random and
# known to the probe alone; its uid lies outside of the range of leases.

probe_user=orion-probe

# Kills what runs as the probe account, and removes it with its home and group. Harmless when repeated; fails when
# something is left.
remove_probe_account() {
  probe_uid=
  while IFS=: read -r name rest; do
    if [ "$name" = "$probe_user" ]; then rest=${rest#*:} probe_uid=${rest%%:*}; fi
  done </etc/passwd
  if [ -n "$probe_uid" ] && [ "$probe_uid" -gt 0 ]; then
    for turn in 1 2 3 4 5 6 7 8 9 10; do
      probe_pids=$(cd /proc && awk -v id="$probe_uid" '
        BEGIN {
          for (i = 1; i < ARGC; i++) {
            file = ARGV[i] "/status"; state = ""
            while ((getline line < file) > 0) {
              if (line ~ /^State:/) { split(line, word); state = word[2] }
              else if (line ~ /^Uid:/) {
                split(line, word)
                if (state != "Z" && state != "X") for (n = 2; n <= 5; n++) if (word[n] "" == id "") { print ARGV[i]; break }
                break
              }
            }
            close(file)
          }
        }' [0-9]*) || probe_pids=
      if [ -z "$probe_pids" ]; then break; fi
      kill -KILL $probe_pids 2>/dev/null || :
      sleep 0.1 2>/dev/null || sleep 1
    done
    if command -v userdel >/dev/null; then
      userdel -f "$probe_user" >/dev/null 2>&1 || :
    else
      deluser "$probe_user" >/dev/null 2>&1 || :
    fi
  fi
  if grep -q "^$probe_user:" /etc/group; then
    if command -v groupdel >/dev/null; then groupdel "$probe_user"; else delgroup "$probe_user"; fi >/dev/null 2>&1 || :
  fi
  rm -rf "/home/$probe_user" "/var/mail/$probe_user" "/var/spool/mail/$probe_user" /run/orion/probe 2>/dev/null || :
  if grep -q "^$probe_user:" /etc/passwd; then
    # At least nobody logs in with it.
    if command -v usermod >/dev/null; then usermod -L -e 1 "$probe_user"; else passwd -l "$probe_user"; fi >/dev/null 2>&1 || :
    return 1
  fi
}

take_node_lock() {
  tries=0
  until flock -n 9; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ]; then return 1; fi
    sleep 0.1 2>/dev/null || sleep 1
  done
}

# guard_probe PID: removes the account when the probe of that process was killed, or hangs.
guard_probe() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin LC_ALL=C
  export PATH LC_ALL
  cd /
  exec 9>>/run/orion/lock
  turns=0
  while [ "$turns" -lt 40 ] && [ -d "/proc/$1" ]; do
    turns=$((turns + 1))
    sleep 1
  done
  # However long somebody holds the lock: the account must not stay.
  until take_node_lock; do :; done
  if [ "$(cat /run/orion/probe/owner 2>/dev/null)" = "$1" ]; then remove_probe_account || :; fi
}
