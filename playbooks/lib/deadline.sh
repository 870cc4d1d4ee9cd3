# The deadline process of a node without an agent: locks each account at its deadline and ends its
# processes, whether the control plane is there or not; deletes nothing. Ends when no lease file is left.
# It changes files and accounts only under the lock that every playbook takes.

take_lock() {
  exec 9>>/run/orion/lock
  if flock -n 9; then
    lock_misses=0
    return 0
  fi
  exec 9>&-
  lock_misses=$((lock_misses + 1))
  # A playbook runs under `timeout`; who holds the lock for longer than a minute is broken.
  [ "$lock_misses" -gt 60 ]
}

leave_lock() {
  exec 9>&-
}

# The file of an earlier boot: the time that was left then, or less when the wall clock says so.
rebase_lease() {
  now=$(date +%s)
  left=$((lease_unix_s - now))
  if [ "$left" -gt "$lease_remaining_s" ]; then left=$lease_remaining_s; fi
  if [ "$left" -lt 0 ]; then left=0; fi
  store_lease "$lease_user" "$1" "$lease_number" "$((uptime + left))" "$((now + left))" "$left" "$lease_locked"
}

end_lease() {
  ending=$1
  if grep -q "^$lease_user:[^:]*:$1:" /etc/passwd; then
    lock_account "$lease_user" || locked_well=no
  fi
  when_full=again
  kill_processes "$1" "$lease_user" || locked_well=no
  ending=
}

# keep_deadline UID
keep_deadline() {
  read_lease "$1" || return 0
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  if [ "$lease_boot_id" != "$boot_id_now" ]; then
    take_lock || return 0
    if read_lease "$1" && [ "$lease_boot_id" != "$boot_id_now" ]; then rebase_lease "$1"; fi
    leave_lock
    return 0
  fi
  if [ "$lease_locked" = 1 ]; then return 0; fi
  if [ "$uptime" -ge "$lease_boot_s" ]; then
    take_lock || return 0
    if read_lease "$1" && [ "$uptime" -ge "$lease_boot_s" ] && [ "$lease_locked" != 1 ]; then
      locked_well=yes
      end_lease "$1"
      if [ "$locked_well" = yes ]; then
        store_lease "$lease_user" "$1" "$lease_number" "$lease_boot_s" "$lease_unix_s" 0 1
      fi
    fi
    leave_lock
  elif [ "$((ticks % 30))" = 29 ]; then
    take_lock || return 0
    if read_lease "$1" && [ "$lease_boot_id" = "$boot_id_now" ] && [ "$uptime" -lt "$lease_boot_s" ]; then
      store_lease "$lease_user" "$1" "$lease_number" "$lease_boot_s" "$lease_unix_s" \
        "$((lease_boot_s - uptime))" "$lease_locked"
    fi
    leave_lock
  fi
}

lease_files_exist() {
  for file in /var/lib/orion/leases/[0-9]*; do
    if [ -f "$file" ]; then return 0; fi
  done
  return 1
}

# When the process table is full a fork ends this shell; it then starts anew without one. What it was
# about to end is ended first, which is what makes room again.
again() {
  trap - EXIT
  if [ -n "$ending" ]; then kill_without_forking "$ending"; fi
  turns=0
  while [ "$turns" -lt 20000 ]; do turns=$((turns + 1)); done
  exec /bin/sh /run/orion/deadline.sh
}

main() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
  export PATH LC_ALL
  umask 077
  cd /
  echo -900 2>/dev/null >/proc/self/oom_score_adj || :
  ticks=0 lock_misses=0 ending=
  read -r boot_id_now </proc/sys/kernel/random/boot_id
  while :; do
    for file in /var/lib/orion/leases/[0-9]*; do
      trap again EXIT
      if [ -f "$file" ]; then keep_deadline "${file##*/}"; fi
    done
    trap again EXIT
    if ! lease_files_exist && take_lock; then
      if ! lease_files_exist; then
        rm -f /run/orion/deadline.pid /run/orion/deadline.sh
        trap - EXIT
        exit 0
      fi
      leave_lock
    fi
    sleep 1
    ticks=$((ticks + 1))
  done
}

main
exit
