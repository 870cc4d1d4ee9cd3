# Lease files: /var/lib/orion/leases/UID, the node's own memory of when an account must be locked.

# write_lease USER UID LEASE SECONDS_FROM_NOW: the deadline counts from this moment; needs $now.
write_lease() {
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  store_lease "$1" "$2" "$3" "$((uptime + $4))" "$((now + $4))" "$4" ''
}

# store_lease USER UID LEASE DEADLINE_BOOT_S DEADLINE_UNIX_S REMAINING_S [1 = locked]
# The name of the file appears only when its content is complete.
store_lease() {
  if [ ! -d /var/lib/orion/leases ]; then mkdir -p /var/lib/orion/leases || return; fi
  read -r boot_id </proc/sys/kernel/random/boot_id
  printf 'user=%s\nuid=%s\nlease=%s\nboot_id=%s\ndeadline_boot_s=%s\ndeadline_unix_s=%s\nremaining_s=%s\n%s' \
    "$1" "$2" "$3" "$boot_id" "$4" "$5" "$6" "${7:+locked=1
}" >"/var/lib/orion/leases/.$2.new" &&
    mv -f "/var/lib/orion/leases/.$2.new" "/var/lib/orion/leases/$2"
}

# read_lease UID: sets lease_user, lease_number, lease_boot_id, lease_boot_s, lease_unix_s,
# lease_remaining_s and lease_locked; fails when the file is absent or not complete.
read_lease() {
  lease_user= lease_uid= lease_number= lease_boot_id= lease_boot_s= lease_unix_s= lease_remaining_s= lease_locked=
  if [ ! -r "/var/lib/orion/leases/$1" ]; then return 1; fi
  while IFS='=' read -r key value; do
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
  if [ "$lease_uid" != "$1" ] || [ -z "$lease_user" ] || [ -z "$lease_boot_id" ]; then return 1; fi
  for value in "$lease_boot_s" "$lease_unix_s" "$lease_remaining_s"; do
    case $value in '' | *[!0-9]*) return 1 ;; esac
  done
}

# Leaves one process behind that keeps the deadlines of all leases on this node (lib/deadline.sh, whose
# text the compiler put into $detached_script). It runs in its own session with every file descriptor closed.
start_deadline() {
  if [ -r /run/orion/deadline.pid ]; then
    pid= command=
    read -r pid </run/orion/deadline.pid || :
    if [ -n "$pid" ] && [ -O "/proc/$pid" ]; then
      read -r command 2>/dev/null <"/proc/$pid/cmdline" || :
      case $command in */run/orion/deadline.sh) return 0 ;; esac
    fi
  fi
  printf '%s\n' "$detached_script" >/run/orion/deadline.new
  mv -f /run/orion/deadline.new /run/orion/deadline.sh
  setsid /bin/sh /run/orion/deadline.sh </dev/null >/dev/null 2>&1 3>&- 9>&- &
  printf '%s\n' "$!" >/run/orion/deadline.pid
}
