# Accounts: what the node knows about $user and $uid, and how an account is locked.
# Works with shadow's tools (useradd, usermod) and with BusyBox's (adduser).

# One reading of all account files. Sets:
#   account_uid, account_gid, account_home, account_shell, account_hash, account_expire  of $user
#   account_ageing  its minimum, maximum and inactive days, with commas between
#   uid_name    the name that has $uid          group_gid   the gid of the group $user
#   gid_name    the group that has gid $uid     lease_group, lease_member, subordinate   yes or no
#   now         seconds since 1970
# An absent thing is empty.
read_account() {
  set -- /etc/passwd /etc/group
  for file in /etc/shadow /etc/subuid /etc/subgid; do
    if [ -r "$file" ]; then set -- "$@" "$file"; fi
  done
  account=$(awk -F: -v user="$user" -v uid="$uid" '
    BEGIN { lease_group = lease_member = subordinate = "no" }
    FILENAME == "/etc/passwd" {
      if ($1 "" == user "") { found = $3; gid = $4; home = $6; shell = $7; hash = $2 }
      if ($3 "" == uid "" && uid_name == "") uid_name = $1
    }
    FILENAME == "/etc/group" {
      if ($1 "" == user "") group_gid = $3
      if ($3 "" == uid "" && gid_name == "") gid_name = $1
      if ($1 == "orion-lease") {
        lease_group = "yes"
        if (index("," $4 ",", "," user ",")) lease_member = "yes"
      }
    }
    FILENAME == "/etc/shadow" && $1 "" == user "" { hash = $2; expire = $8; ageing = $4 "," $5 "," $7 }
    FILENAME ~ /sub[ug]id$/ && uid + 0 >= $2 + 0 && uid + 0 < $2 + $3 { subordinate = "yes" }
    END {
      srand(); now = srand()
      printf "%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:.", found, gid, home, shell, hash, expire,
        ageing, uid_name, group_gid, gid_name, lease_group, lease_member, subordinate, now
    }' "$@")
  set -f
  IFS=:
  set -- $account
  unset IFS account
  set +f
  account_uid=$1 account_gid=$2 account_home=$3 account_shell=$4 account_hash=$5 account_expire=$6
  account_ageing=$7 uid_name=$8 group_gid=$9
  shift 9
  gid_name=$1 lease_group=$2 lease_member=$3 subordinate=$4 now=$5
}

# check_owner [STATUS]: refuses when the name (STATUS, or 65) or the uid (65) belongs to somebody else on this node. After
# read_account.
check_owner() {
  if [ -n "$account_uid" ] && [ "$account_uid" != "$uid" ]; then
    refuse "${1:-65}" "the name $user belongs to uid $account_uid on this node"
  fi
  if [ -n "$uid_name" ] && [ "$uid_name" != "$user" ]; then
    refuse 65 "the uid $uid belongs to $uid_name on this node"
  fi
}

# Can nobody log in to the account? No password, and no key either: it has expired already (an end that lies ahead
# shuts nobody out), or its shell is none. After read_account.
account_locked() {
  case $account_hash in "!"*) ;; *) return 1 ;; esac
  case $account_shell in /bin/false | "!"*) return 0 ;; esac
  case $account_expire in "" | *[!0-9]*) return 1 ;; esac
  [ "$account_expire" -lt "$((now / 86400))" ]
}

# account_password: sets $password to the hash that the account has, or had before it was locked; empty if that is
# not known. After read_account.
account_password() {
  case $account_hash in
  '!$'* | '!*'*) password=${account_hash#!} ;;
  "!"[0-9a-z]*) password="\$${account_hash#!}" ;; # lib/door.sh struck its first character out
  "!"*) password= ;;
  *) password=$account_hash ;;
  esac
}

# choose_password: sets $password to the hash that $user should have: $password_hash, unless the tenant has changed the
# one that was set last (that one is kept where root alone reads it). After read_account.
choose_password() {
  set_last=
  if [ -r "/var/lib/orion/passwords/$uid" ]; then IFS= read -r set_last <"/var/lib/orion/passwords/$uid" || :; fi
  account_password
  case $password in
  '$'*) if [ "$set_last" != "$password_hash" ]; then password=$password_hash; fi ;;
  *) password=$password_hash ;;
  esac
}

# remember_password: after $password_hash was set, or the tenant's was left.
remember_password() {
  if [ "$set_last" = "$password_hash" ]; then return 0; fi
  (
    umask 077
    mkdir -p /var/lib/orion/passwords &&
      printf "%s\n" "$password_hash" >"/var/lib/orion/passwords/.$uid.new" &&
      mv -f "/var/lib/orion/passwords/.$uid.new" "/var/lib/orion/passwords/$uid"
  ) || :
}

# lock_account USER: no login any more, neither by password nor by key nor by certificate.
# The expiry shuts keys out where sshd uses PAM, the "!" where it does not. Harmless when repeated. Ends soon: shadow's
# tools wait 15 seconds for a lock that somebody else holds.
lock_account() {
  if command -v usermod >/dev/null; then
    timeout -k 1 2 usermod -L -e 1 "$1" 3>&- 9>&-
  else
    rewrite /etc/shadow -F: -v OFS=: -v user="$1" '$1 "" == user "" && $2 !~ /^!/ { $2 = "!" $2 } { print }' &&
      set_shell "$1" /bin/false
  fi
}

# open_account: opens the account $user, with no end and no ageing, with the shell $1 and the password $2 (a hash).
# After read_account.
open_account() {
  if command -v chage >/dev/null; then
    case $account_expire,$account_ageing in
    ,0,99999, | ,0,99999,-1) ;;
    *) chage -E -1 -m 0 -M 99999 -I -1 "$user" ;;
    esac
  elif [ -n "$account_expire" ] && command -v usermod >/dev/null; then
    usermod -e "" "$user"
  elif [ "$account_expire,$account_ageing" != ,0,99999, ]; then
    rewrite /etc/shadow -F: -v OFS=: -v user="$user" \
      '$1 "" == user "" { $4 = 0; $5 = 99999; $7 = $8 = "" } { print }'
  fi
  if [ "$account_shell" != "$1" ]; then
    case $account_shell in /bin/false | "!"*) set_shell "$user" "$1" ;; esac
  fi
  if [ "$account_hash" != "$2" ]; then
    # printf is a builtin: the hash is in nobody's argument list.
    if command -v chpasswd >/dev/null; then
      printf "%s:%s\n" "$user" "$2" | chpasswd -e
    else
      printf "%s\n" "$2" | rewrite /etc/shadow -F: -v OFS=: -v user="$user" \
        'NR == 1 { hash = $0; next } $1 "" == user "" { $2 = hash } { print }' -
    fi
  fi
}

# is_open PASSWORD: do the account files say what $user was opened with? The password's hash, no end, and no ageing that keeps
# it out. By the shell alone: no program is started.
is_open() {
  while IFS=: read -r name hash x x most x inactive expire x; do
    if [ "$name" = "$user" ]; then
      case $hash,$expire,$inactive,$most in "$1",,,99999 | "$1",,-1,99999) return 0 ;; esac
      return 1
    fi
  done </etc/shadow
  return 1
}

# locked_by: prints who holds the account files, empty if nobody does.
locked_by() {
  for file in /etc/passwd.lock /etc/shadow.lock /etc/group.lock /etc/gshadow.lock; do
    holder=
    if [ -r "$file" ]; then read -r holder 2>/dev/null <"$file" || :; fi
    case $holder in "" | *[!0-9]*) continue ;; esac
    if [ -d "/proc/$holder" ]; then
      printf "the account files are locked by PID %s (%s)" "$holder" "$file"
      return 0
    fi
  done
  inode=$(stat -c %i /etc/.pwd.lock 2>/dev/null) || return 0
  awk -v inode=":$inode$" '$2 == "POSIX" && $6 ~ inode && $4 == "WRITE" {
    printf "the account files are locked by PID %s (/etc/.pwd.lock)", $5; exit }' /proc/locks 2>/dev/null || :
}

# with_account_files COMMAND...: runs a tool that changes accounts. One that fails because somebody else holds the
# files, or because there is no room, ends the run with 71: it may pass.
with_account_files() {
  tool_status=0
  timeout -k 1 10 "$@" 3>&- 9>&- || tool_status=$?
  if [ "$tool_status" = 0 ]; then return 0; fi
  holder=$(locked_by)
  if [ -n "$holder" ]; then refuse 71 "$holder"; fi
  if ! etc_has_room; then refuse 71 "${1##*/} failed: there is no room in /etc, or it is read-only"; fi
  return "$tool_status"
}

# etc_has_room: can files be made in /etc?
etc_has_room() {
  printf "%8192s" . 2>/dev/null >/etc/.orion-room && rm -f /etc/.orion-room && return 0
  rm -f /etc/.orion-room 2>/dev/null || :
  return 1
}

# A little room of Orion's own, in files of a size that account files have, for the moment when a tenant left none.
keep_reserve() {
  if [ -e /var/lib/orion/reserve/4 ]; then return 0; fi
  mkdir -p /var/lib/orion/reserve 2>/dev/null || return 0
  for file in 1 2 3 4; do
    printf "%32768s" . 2>/dev/null >"/var/lib/orion/reserve/$file" || break
  done
}

# free_reserve: fails when there is none.
free_reserve() {
  if [ ! -e /var/lib/orion/reserve/1 ]; then return 1; fi
  rm -rf /var/lib/orion/reserve
}

# with_reserve COMMAND...: once more in the room that is kept, where there was none: a tenant who filled the disk must be
# able to stay, and to make room.
with_reserve() {
  "$@" || { free_reserve && "$@"; }
}

# set_shell USER SHELL: for nodes without usermod.
set_shell() {
  rewrite /etc/passwd -F: -v OFS=: -v user="$1" -v shell="$2" '$1 "" == user "" { $7 = shell } { print }'
}

# rewrite FILE AWK_ARGUMENTS...: FILE becomes what awk makes of it, whole or not at all, same mode and owner.
rewrite() {
  rewritten=$1
  shift
  cp -p "$rewritten" "$rewritten.orion" && awk "$@" "$rewritten" >"$rewritten.orion" &&
    mv -f "$rewritten.orion" "$rewritten"
}

# as_tenant USER UID SCRIPT [$0 [SECONDS [SIGNAL]]]: runs SCRIPT with the rights of the uid and nothing more, holding
# none of our file descriptors but standard input, and not for longer than five seconds or SECONDS: the tenant may stop
# any process of its own uid. The uid needs no account, except on BusyBox.
as_tenant() {
  longest=${5:-5} ended_by=${6:-TERM}
  if command -v useradd >/dev/null; then
    set -- setpriv "--reuid=$2" "--regid=$2" --clear-groups /bin/sh -c "$3" "${4:-sh}"
  else
    set -- su -s /bin/sh -c "cd /; exec /bin/sh -c '$3' '${4:-sh}'" "$1"
  fi
  timeout -k 1 -s "$ended_by" "$longest" "$@" >/dev/null 2>&1 3>&- 9>&-
}

# remove_account: removes the account and the group $user, both of $uid. After read_account.
remove_account() {
  if [ -n "$account_uid" ]; then
    # -f: a stale entry in utmp must not stop it; its processes are gone already.
    if command -v userdel >/dev/null; then
      timeout -k 1 5 userdel -f "$user" 3>&- 9>&- || return
    else
      deluser "$user" || return
    fi
    read_account
  fi
  if [ -n "$group_gid" ] && [ "$group_gid" = "$uid" ]; then
    if command -v groupdel >/dev/null; then timeout -k 1 5 groupdel "$user" 3>&- 9>&-; else delgroup "$user"; fi || return
  fi
  if [ "$lease_member" = yes ]; then
    if command -v gpasswd >/dev/null; then gpasswd -d "$user" orion-lease; else delgroup "$user" orion-lease; fi || return
  fi
}
