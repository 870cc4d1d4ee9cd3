# Lease files: /var/lib/orion/leases/UID, the node's own memory of when an account must be locked.

# write_lease USER UID LEASE SECONDS_FROM_NOW: the deadline counts from this moment; needs $now.
write_lease() {
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  store_lease "$1" "$2" "$3" "$((uptime + $4))" "$((now + $4))" "$4" ""
}

# store_lease USER UID LEASE DEADLINE_BOOT_S DEADLINE_UNIX_S REMAINING_S [1 = locked]
# The name of the file appears only when its content is complete and on the disk.
store_lease() {
  if [ ! -d /var/lib/orion/leases ]; then mkdir -p /var/lib/orion/leases || return; fi
  read -r boot_id </proc/sys/kernel/random/boot_id
  printf "user=%s\nuid=%s\nlease=%s\nboot_id=%s\ndeadline_boot_s=%s\ndeadline_unix_s=%s\nremaining_s=%s\n%s" \
    "$1" "$2" "$3" "$boot_id" "$4" "$5" "$6" "${7:+locked=1
}" >"/var/lib/orion/leases/.$2.new" && is_whole "/var/lib/orion/leases/.$2.new" &&
    mv -f "/var/lib/orion/leases/.$2.new" "/var/lib/orion/leases/$2" && return 0
  rm -f "/var/lib/orion/leases/.$2.new"
  return 1
}

# report_others UID: reports how many lease files there are besides this uid's; those of uids that Orion gives out.
report_others() {
  others=0
  for file in /var/lib/orion/leases/[0-9]*; do
    other=${file##*/}
    case $other in *[!0-9]* | "$1") continue ;; esac
    if [ -e "$file" ] && [ "$other" -ge "$first_uid" ]; then others=$((others + 1)); fi
  done
  report others "$others"
}

# is_whole FILE: was all of it written? Where the disk is full the shell's printf may not say so.
is_whole() {
  last=
  while IFS= read -r line; do last=$line; done <"$1"
  case $last in remaining_s=?* | locked=1) ;; *) return 1 ;; esac
}

# read_lease UID: sets lease_user, lease_number, lease_boot_id, lease_boot_s, lease_unix_s,
# lease_remaining_s and lease_locked; fails when the file is absent or makes no sense, with $lease_problem.
read_lease() {
  lease_user= lease_uid= lease_number= lease_boot_id= lease_boot_s= lease_unix_s= lease_remaining_s= lease_locked=
  lease_problem="there is none"
  if [ ! -r "/var/lib/orion/leases/$1" ]; then return 1; fi
  while IFS="=" read -r key value; do
    case $key in
    user) lease_user=$value ;;
    uid) lease_uid=$value ;;
    lease) lease_number=$value ;;
    boot_id) lease_boot_id=$value ;;
    deadline_boot_s) lease_boot_s=$value ;;
    deadline_unix_s) lease_unix_s=$value ;;
    remaining_s) lease_remaining_s=$value ;;
    locked) lease_locked=$value ;;
    esac
  done 2>/dev/null <"/var/lib/orion/leases/$1" || return 1
  # Also one that is cut off.
  for key in user uid lease boot_id deadline_boot_s deadline_unix_s remaining_s; do
    case $key in
    user) value=$lease_user ;;
    uid) value=$lease_uid ;;
    lease) value=$lease_number ;;
    boot_id) value=$lease_boot_id ;;
    deadline_boot_s) value=$lease_boot_s ;;
    deadline_unix_s) value=$lease_unix_s ;;
    remaining_s) value=$lease_remaining_s ;;
    esac
    lease_problem="$key is missing"
    if [ -z "$value" ]; then return 1; fi
    case $key in user | boot_id) continue ;; esac
    lease_problem="$key is '$value' and no number"
    case $value in *[!0-9]* | ???????????????*) return 1 ;; esac
  done
  lease_problem="it names uid $lease_uid and not its own"
  if [ "$lease_uid" != "$1" ]; then return 1; fi
  # A file that names root or a system account is not obeyed.
  lease_problem="uid $lease_uid is no tenant's"
  if [ "$lease_uid" -lt 1000 ]; then return 1; fi
  lease_problem=
}

# Leaves one process behind that keeps the deadlines of all leases on this node (lib/deadline.sh, whose
# text stands in $detached_script). It runs in its own session with every file descriptor closed. One with another
# text, of an earlier version, is replaced: it goes on until there is another. Fails where /run has no room.
start_deadline() {
  if [ "$(cat /run/orion/deadline.sh 2>/dev/null)" = "$(printf %s "$detached_script")" ]; then
    if deadline_runs; then return 0; fi
    run_deadline
    return
  fi
  if ! printf "%s\n" "$detached_script" >/run/orion/deadline.new ||
    [ "$(cat /run/orion/deadline.new)" != "$(printf %s "$detached_script")" ]; then
    rm -f /run/orion/deadline.new
    return 1
  fi
  if deadline_runs; then kill -KILL "$pid" 2>/dev/null || :; fi
  mv -f /run/orion/deadline.new /run/orion/deadline.sh || return 1
  run_deadline
}

# deadline_runs: does that process run? Sets $pid.
deadline_runs() {
  pid= command=
  if [ -r /run/orion/deadline.pid ]; then read -r pid </run/orion/deadline.pid || :; fi
  if [ -z "$pid" ] || [ ! -O "/proc/$pid" ]; then return 1; fi
  read -r command 2>/dev/null <"/proc/$pid/cmdline" || :
  case $command in */run/orion/deadline.sh) ;; *) return 1 ;; esac
}

# run_deadline: fails where there is no room for its number: nobody would find it, and another would be started beside it.
run_deadline() {
  setsid /bin/sh /run/orion/deadline.sh </dev/null >/dev/null 2>&1 3>&- 9>&- &
  printf "%s\n" "$!" >/run/orion/deadline.pid || :
  pid=
  read -r pid </run/orion/deadline.pid || :
  if [ "$pid" = "$!" ]; then return 0; fi
  kill -KILL "$!" 2>/dev/null || :
  return 1
}

# restart_deadline: starts that process again where somebody killed it: its text is still there. Fails where it is missing
# and cannot be started so, as after a boot: then the list does (list_users).
restart_deadline() {
  if ! deadline_is_missing; then return 0; fi
  [ -r /run/orion/deadline.sh ] && run_deadline
}

# deadline_is_missing: are there lease files, and that process does not run?
deadline_is_missing() {
  if deadline_runs; then return 1; fi
  leases_are_left
}

leases_are_left() {
  for file in /var/lib/orion/leases/[0-9]* /var/lib/orion/containers/[0-9A-Z]*; do
    if [ -f "$file" ]; then return 0; fi
  done
  return 1
}
