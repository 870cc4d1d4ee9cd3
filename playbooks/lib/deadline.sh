# The deadline process: shuts each account at its deadline and ends its processes, whether the control plane is there
# or not, with an agent or without; deletes nothing. Ends when no lease file is left. Files and accounts are changed
# as a playbook would only under the lock that every playbook takes. Where that is not to be had at a deadline, the
# tenant's processes end all the same, and the door is shut by what needs no lock (strike_account).
# What it does is said in /run/orion/deadline.log; what it keeps stands in /run/orion/kept, a line each: uid, deadline
# in seconds of the machine's uptime, 1 if the account is shut, lease, user.
# The containers of a lease are stopped and removed at their deadline, too, by a process beside this one: an engine that
# hangs delays no account.

take_lock() {
  exec 9>>/run/orion/lock
  if flock -n 9; then
    missed_at=
    return 0
  fi
  exec 9>&-
  # Only misses that follow each other count: one of long ago says nothing about who has the lock now.
  if [ -z "$missed_at" ] || [ "$((ticks - last_missed))" -gt 1 ]; then missed_at=$ticks; fi
  last_missed=$ticks
  # A playbook runs under `timeout`; who holds the lock for longer than that is broken.
  [ "$((ticks - missed_at))" -gt 150 ]
}

leave_lock() {
  exec 9>&-
}

# say WORDS...: once, unless much else was said meanwhile.
say() {
  case $said in *"|$*|"*) return 0 ;; esac
  if [ "${#said}" -gt 4000 ]; then said="|"; fi
  said="$said$*|"
  printf "%s\n" "$*" 2>/dev/null >>/run/orion/deadline.log || :
}

# tell WORDS...: each time.
tell() {
  printf "%s\n" "$*" 2>/dev/null >>/run/orion/deadline.log || :
}

# look_up UID: sets $user, $uid and what read_account sets, by the name that the uid has.
look_up() {
  user=$lease_user uid=$1
  read_account
  if [ -n "$uid_name" ] && [ "$uid_name" != "$user" ]; then
    user=$uid_name
    read_account
  fi
}

# The file of an earlier boot: the time that was left then, or less when the wall clock says so. Where it cannot be
# written anew, both count from this boot.
rebase_lease() {
  now=$(date +%s)
  left=$((lease_unix_s - now))
  if [ "$left" -gt "$lease_remaining_s" ]; then left=$lease_remaining_s; fi
  if [ "$left" -lt 0 ]; then left=0; fi
  if store_lease "$lease_user" "$1" "$lease_number" "$((uptime + left))" "$((now + left))" "$left" "$lease_locked"; then
    lease_boot_s=$((uptime + left))
  fi
}

# end_lease WHY UID: under the lock. Fails when something of the tenant is still there.
end_lease() {
  when_full=again ending=$2
  look_up "$2"
  kill_processes "$2" "$user" 2 || strike_door
  ended=$killed
  if ! shut_door; then say "$user cannot be locked, trying on"; fi
  end_logins "$user"
  if kill_processes "$2" "$user"; then pids=; else say "processes of uid $2 do not end, trying on: $pids"; fi
  ending=
  rm -f "/run/orion/struck/$2"
  if [ -n "$pids" ]; then return 1; fi
  case $door in open | none) return 1 ;; esac
  tell "lease $lease_number $1: $user (uid $2) is locked, $((ended + killed)) processes ended${door:+ ($door)}"
}

# end_without_lock UID: a playbook has the lock, and this cannot wait for it. Fails when the lease file is gone.
end_without_lock() {
  # That playbook may have moved the deadline meanwhile, or be removing the lease.
  over_at=$lease_boot_s
  if ! read_lease "$1"; then return 1; fi
  if [ "$lease_boot_id" = "$boot_id_now" ] && [ "$uptime" -lt "$lease_boot_s" ]; then return 0; fi
  lease_boot_s=$over_at
  when_full=again ending=$1
  look_up "$1"
  if [ -n "$account_uid" ] && ! account_locked; then
    strike_account
    # Where there is no room for it, set_deadline opens the account again all the same.
    mkdir -p /run/orion/struck && true >"/run/orion/struck/$1" || :
    say "lease $lease_number is over: the door of $user is shut, while a playbook holds the lock"
  fi
  end_logins "$user"
  kill_processes "$1" "$user" 20 || :
  ending=
}

# keep_deadline UID
keep_deadline() {
  if ! read_lease "$1"; then
    # One that is just being written is whole a second later.
    case $suspects_before in *"|$1 $lease_problem|"*)
      say "the lease file /var/lib/orion/leases/$1 is not obeyed: $lease_problem; run \`list_users\` or remove it"
      ;;
    esac
    suspects="$suspects|$1 $lease_problem|"
    return 0
  fi
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  if [ "$lease_boot_id" != "$boot_id_now" ] && [ "$lease_locked" != 1 ]; then
    now=$(date +%s)
    lease_boot_s=$((uptime + lease_unix_s - now))
    if [ "$lease_boot_s" -gt "$lease_remaining_s" ]; then lease_boot_s=$lease_remaining_s; fi
    if take_lock; then
      if read_lease "$1" && [ "$lease_boot_id" != "$boot_id_now" ]; then
        rebase_lease "$1"
      fi
      leave_lock
    fi
  fi
  if [ "$lease_locked" = 1 ]; then
    note_kept "$1" 1
    if [ "$((ticks % 5))" = 4 ]; then sweep "$1"; fi
  elif [ "$uptime" -lt "$lease_boot_s" ]; then
    note_kept "$1" 0
    if [ -e "/run/orion/struck/$1" ]; then open_again "$1"; fi
    if [ "$((ticks % 30))" = 0 ]; then save_remaining "$1"; fi
  else
    ended=0
    if take_lock; then
      if read_lease "$1" && [ "$lease_locked" != 1 ] && end_lease "is over" "$1"; then
        ended=1
        store_lease "$lease_user" "$1" "$lease_number" "$lease_boot_s" "$lease_unix_s" 0 1 ||
          say "the lease file of uid $1 cannot be written; its door is shut"
      fi
      leave_lock
    elif [ "$((ticks - missed_at))" -ge 2 ]; then
      end_without_lock "$1" || return 0
    fi
    note_kept "$1" "$ended"
  fi
}

# A playbook moved the deadline while the door was being shut without its lock: the playbook is right.
open_again() {
  if ! take_lock; then return 0; fi
  if read_lease "$1" && [ "$lease_locked" != 1 ] && [ "$uptime" -lt "$lease_boot_s" ]; then
    look_up "$1"
    account_password
    if [ -x /bin/bash ]; then shell=/bin/bash; else shell=/bin/sh; fi
    if [ -n "$password" ] && open_account "$shell" "$password"; then
      tell "lease $lease_number was extended meanwhile: $user is open again"
      rm -f "/run/orion/struck/$1"
    fi
  fi
  leave_lock
}

save_remaining() {
  left=$((lease_remaining_s - (lease_boot_s - uptime)))
  if [ "${left#-}" -lt 3 ]; then return 0; fi
  if ! take_lock; then return 0; fi
  if read_lease "$1" && [ "$lease_boot_id" = "$boot_id_now" ] && [ "$uptime" -lt "$lease_boot_s" ]; then
    store_lease "$lease_user" "$1" "$lease_number" "$lease_boot_s" "$lease_unix_s" \
      "$((lease_boot_s - uptime))" "$lease_locked" || :
  fi
  leave_lock
}

# Locked accounts stay locked and have no processes: a job of cron's may have started since.
sweep() {
  if ! take_lock; then return 0; fi
  if read_lease "$1" && [ "$lease_locked" = 1 ]; then
    uncover_files || :
    look_up "$1"
    if [ -n "$account_uid" ] && ! account_locked && shut_door; then
      tell "$user had been opened after its lease's end; locked again"
    fi
    when_full=again ending=$1
    kill_processes "$1" "$user" || say "processes of uid $1 do not end, trying on: $pids"
    ending=
    if [ "$killed" -gt 0 ]; then tell "$killed processes of $user (uid $1) ended after its lease's end"; fi
  fi
  leave_lock
}

# keep_containers ULID: sets $due to the leases whose containers have to end, or to stay ended.
keep_containers() {
  if ! read_containers "$1"; then
    say "/var/lib/orion/containers/$1 makes no sense: it is not obeyed"
    return 0
  fi
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  if [ "$of_ended" = 1 ]; then
    if [ "$((ticks % 10))" = 9 ]; then due="$due $1"; fi
    return 0
  fi
  if [ "$of_boot_id" != "$boot_id_now" ]; then
    now=$(date +%s)
    left=$((of_unix_s - now))
    if [ "$left" -gt "$of_remaining_s" ]; then left=$of_remaining_s; fi
    if [ "$left" -lt 0 ]; then left=0; fi
    of_boot_s=$((uptime + left))
    move_to=$of_boot_s
    move_containers "$1" "$boot_id_now"
  fi
  if [ "$uptime" -ge "$of_boot_s" ]; then
    due="$due $1"
  elif [ "$((ticks % 30))" = 0 ]; then
    move_to=$of_boot_s
    move_containers "$1" ""
  fi
}

# move_containers ULID [BOOT_ID]: writes the deadline $move_to, in seconds of the machine's uptime, unless a playbook was
# faster; for a file of an earlier boot only, where the id of this one is given.
move_containers() {
  if ! take_lock; then return 0; fi
  if read_containers "$1" && [ "$of_ended" != 1 ] && [ "$of_boot_id" != "${2:-}" ] &&
    { [ -n "${2:-}" ] || [ "$of_boot_id" = "$boot_id_now" ]; }; then
    left=$((move_to - uptime))
    if [ "$left" -lt 0 ]; then left=0; fi
    store_containers "$1" "$of_lease" "$move_to" "$(($(date +%s) + left))" "$left" "" || :
  fi
  leave_lock
}

# end_due ULID...: a process of its own, one at a time.
end_due() {
  exec 8>>/run/orion/containers.lock
  if ! flock -n 8; then return 0; fi
  # On a node that has none by now nothing of it can run.
  if ! find_engine; then return 0; fi
  if ! list_containers "$1"; then
    if [ ! -e /run/orion/engine_down ]; then tell "the container engine does not answer: trying on"; fi
    true >/run/orion/engine_down
    return 0
  fi
  rm -f /run/orion/engine_down
  for ulid in "$@"; do end_one "$ulid" & done
  wait
}

end_one() {
  if ! end_containers "$1" 3; then
    tell "containers of $1 do not end, trying on"
    return 0
  fi
  if [ "$ended" -gt 0 ]; then tell "lease $1 is over: $ended containers ended"; fi
  exec 9>>/run/orion/lock
  tries=0
  until flock -n 9; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then return 0; fi
    sleep 0.1 2>/dev/null || sleep 1
  done
  read -r uptime rest </proc/uptime
  # A playbook may have moved the deadline meanwhile.
  if read_containers "$1" && [ "$of_ended" != 1 ] && [ "${uptime%%.*}" -ge "$of_boot_s" ]; then
    store_containers "$1" "$of_lease" "$of_boot_s" "$of_unix_s" 0 1 || :
  fi
}

# check_firewall: the networks of containers stay closed (lib/firewall_rules.sh).
check_firewall() {
  if [ ! -e /var/lib/orion/firewall ] || ! take_lock; then return 0; fi
  sh /var/lib/orion/firewall.sh 2>/dev/null || say "the firewall refuses the rules for containers, trying on"
  leave_lock
}

note_kept() {
  kept="$kept$1 $lease_boot_s $2 $lease_number $lease_user
"
}

write_kept() {
  if [ "$kept" = "$kept_before" ]; then return 0; fi
  if printf "%s" "$kept" 2>/dev/null >/run/orion/kept.new && mv -f /run/orion/kept.new /run/orion/kept; then
    kept_before=$kept
  fi
}

# What the agent puts there: `leases`, lines of uid, lease, user and deadline in seconds of the machine's uptime; and
# `lock_all`: every lease account is shut now.
obey_orders() {
  if [ ! -d /run/orion/orders ]; then return 0; fi
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  if [ -e /run/orion/orders/leases ] && take_lock; then
    while read -r to_uid to_lease to_user to_boot_s; do move_deadline; done </run/orion/orders/leases
    rm -f /run/orion/orders/leases
    leave_lock
  fi
  if [ -e /run/orion/orders/lock_all ]; then
    take_lock || [ "$((ticks - missed_at))" -ge 2 ] || return 0
    tell "the control plane gives this node up: every lease account is locked"
    # By the lease files first: that needs no fork, and what has ended makes room in a full process table.
    for file in /var/lib/orion/leases/[0-9]*; do
      if [ -f "$file" ]; then give_up "${file##*/}"; fi
    done
    for to_uid in $(awk -F: -v first="$first_uid" 'FILENAME == "/etc/group" && $1 == "orion-lease" { gid = $3; count = split($4, names, ","); for (i = 1; i <= count; i++) member[names[i]] = 1 }
      FILENAME == "/etc/passwd" && $3 >= first + 0 && ($1 in member || $4 "" == gid "") { print $3 }' /etc/group /etc/passwd); do
      if [ ! -f "/var/lib/orion/leases/$to_uid" ]; then give_up "$to_uid"; fi
    done
    for file in /var/lib/orion/containers/[0-9A-Z]*; do
      if read_containers "${file##*/}" && [ "$of_ended" != 1 ]; then
        store_containers "${file##*/}" "$of_lease" "$uptime" "$(date +%s)" 0 "" || :
      fi
    done
    # Only now: whoever starts anew in between obeys the order again.
    rm -f /run/orion/orders/lock_all
    leave_lock
  fi
}

# give_up UID: shuts the account and ends its lease. Under the lock.
give_up() {
  case $1 in "" | *[!0-9]*) return 0 ;; esac
  if read_lease "$1"; then
    if [ "$lease_locked" = 1 ]; then return 0; fi
    if end_lease "is given up" "$1"; then locked=1; else locked=; fi
    # One that is not shut yet is over: then it is tried on.
    if [ "$lease_boot_s" -gt "$uptime" ]; then lease_boot_s=$uptime; fi
    store_lease "$lease_user" "$1" "$lease_number" "$lease_boot_s" "$lease_unix_s" 0 "$locked" || :
  else
    lease_user=orion-uid-$1 lease_number=none
    end_lease "is given up" "$1" || :
  fi
}

move_deadline() {
  case $to_boot_s in "" | *[!0-9]*) return 0 ;; esac
  if ! read_lease "$to_uid" || [ "$lease_locked" = 1 ] || [ "$lease_boot_id" != "$boot_id_now" ]; then return 0; fi
  if [ "$lease_number" != "$to_lease" ] || [ "$lease_user" != "$to_user" ]; then
    say "uid $to_uid belongs to lease $lease_number here and to lease $to_lease there; its deadline stays"
    return 0
  fi
  difference=$((lease_boot_s - to_boot_s))
  # The way of a message takes time.
  if [ "${difference#-}" -lt 2 ]; then return 0; fi
  left=$((to_boot_s - uptime))
  if [ "$left" -lt 0 ]; then left=0; fi
  now=$(date +%s)
  store_lease "$lease_user" "$to_uid" "$lease_number" "$to_boot_s" "$((now + left))" "$left" "" &&
    tell "lease $lease_number now ends here in $left s"
}

# Looked for in the background, at the start and each hour: it may take long.
refresh_places() {
  setsid /bin/sh /run/orion/deadline.sh places </dev/null >/dev/null 2>&1 &
}

write_places() {
  nicely="nice -n 19"
  # Of so many directories that the list itself would be a burden the rest is named, not searched.
  find_places | awk '/^\// { if (++count <= 10000) print; else { print "!more-than-10000-places /"; exit } }' \
    >/run/orion/places.new || :
  mv -f /run/orion/places.new /run/orion/places
}

work_exists() {
  if [ -e /run/orion/orders/leases ] || [ -e /run/orion/orders/lock_all ]; then return 0; fi
  leases_are_left
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

# What the boot hook runs (lib/boot.sh). A playbook or an agent may have been faster.
start_at_boot() {
  mkdir -p /run/orion
  if deadline_runs; then exit 0; fi
  cat /var/lib/orion/deadline.sh >/run/orion/deadline.new
  mv -f /run/orion/deadline.new /run/orion/deadline.sh
  printf "%s\n" "$$" >/run/orion/deadline.pid
  exec /bin/sh /run/orion/deadline.sh </dev/null >/dev/null 2>&1
}

main() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
  export PATH LC_ALL
  umask 077
  cd /
  if [ "${1:-}" = boot ]; then start_at_boot; fi
  echo -900 2>/dev/null >/proc/self/oom_score_adj || :
  nicely=
  if [ "${1:-}" = places ]; then
    write_places
    exit
  fi
  if [ "${1:-}" = containers ]; then
    shift
    end_due "$@"
    exit
  fi
  ticks=0 missed_at= last_missed=0 ending= said="|" suspects= kept_before=none
  true >/run/orion/deadline.log || :
  read -r boot_id_now </proc/sys/kernel/random/boot_id
  refresh_places
  while :; do
    trap again EXIT
    obey_orders
    kept= suspects_before=$suspects suspects=
    for file in /var/lib/orion/leases/[0-9]*; do
      trap again EXIT
      if [ -f "$file" ]; then keep_deadline "${file##*/}"; fi
    done
    due=
    for file in /var/lib/orion/containers/[0-9A-Z]*; do
      trap again EXIT
      if [ -f "$file" ]; then keep_containers "${file##*/}"; fi
    done
    trap again EXIT
    if [ -n "$due" ]; then setsid /bin/sh /run/orion/deadline.sh containers $due </dev/null >/dev/null 2>&1 & fi
    write_kept
    if [ "$((ticks % 10))" = 0 ]; then check_firewall; fi
    if ! work_exists && take_lock; then
      if ! work_exists; then
        remove_boot_hook
        rm -f /run/orion/deadline.pid /run/orion/deadline.sh /run/orion/kept
        trap - EXIT
        exit 0
      fi
      leave_lock
    fi
    sleep 1
    ticks=$((ticks + 1))
    # Another was started beside this one, by a playbook and the agent at the same time: the later one stays.
    if [ "$ticks" -gt 2 ]; then
      IFS= read -r current 2>/dev/null </run/orion/deadline.pid || current=$$
      if [ "$current" != "$$" ]; then
        trap - EXIT
        exit 0
      fi
    fi
    if [ "$((ticks % 3600))" = 0 ]; then
      refresh_places
      true >/run/orion/deadline.log || :
    fi
  done
}

main "$@"
exit
