# Accounts: what the node knows about $user and $uid, and how an account is locked.
# Works with shadow's tools (useradd, usermod) and with BusyBox's (adduser, passwd -l).

# One reading of all account files. Sets:
#   account_uid, account_gid, account_home, account_shell, account_hash, account_expire  of $user
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
    FILENAME == "/etc/shadow" && $1 "" == user "" { hash = $2; expire = $8 }
    FILENAME ~ /sub[ug]id$/ && uid + 0 >= $2 + 0 && uid + 0 < $2 + $3 { subordinate = "yes" }
    END {
      srand(); now = srand()
      printf "%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:%s:.", found, gid, home, shell, hash, expire,
        uid_name, group_gid, gid_name, lease_group, lease_member, subordinate, now
    }' "$@")
  set -f
  IFS=:
  set -- $account
  unset IFS account
  set +f
  account_uid=$1 account_gid=$2 account_home=$3 account_shell=$4 account_hash=$5 account_expire=$6
  uid_name=$7 group_gid=$8 gid_name=$9
  shift 9
  lease_group=$1 lease_member=$2 subordinate=$3 now=$4
}

# Refuses (65) when the name or the uid belongs to somebody else on this node. After read_account.
check_owner() {
  if [ -n "$account_uid" ] && [ "$account_uid" != "$uid" ]; then
    refuse 65 "the name $user belongs to uid $account_uid on this node"
  fi
  if [ -n "$uid_name" ] && [ "$uid_name" != "$user" ]; then
    refuse 65 "the uid $uid belongs to $uid_name on this node"
  fi
}

# Is the account locked, by us or by the operator? After read_account.
account_locked() {
  case $account_hash in '!'*) return 0 ;; esac
  [ -n "$account_expire" ] || [ "$account_shell" = /bin/false ]
}

# lock_account USER: no login any more, neither by password nor by key nor by certificate.
# The expiry shuts keys out where sshd uses PAM, the "!" where it does not. Harmless when repeated.
lock_account() {
  if command -v usermod >/dev/null; then
    usermod -L -e 1 "$1"
  else
    passwd -l "$1" >/dev/null 2>&1 || : # complains when it is locked already
    set_shell "$1" /bin/false
  fi
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

# as_tenant USER UID SCRIPT [$0]: runs SCRIPT with the rights of the uid and nothing more, holding none of
# our file descriptors but standard input, and not for longer than five seconds: the tenant may stop any
# process of its own uid. The uid needs no account, except on BusyBox.
as_tenant() {
  if command -v useradd >/dev/null; then
    set -- setpriv "--reuid=$2" "--regid=$2" --clear-groups /bin/sh -c "$3" "${4:-sh}"
  else
    set -- su -s /bin/sh -c "cd /; exec /bin/sh -c '$3' '${4:-sh}'" "$1"
  fi
  timeout -k 1 5 "$@" >/dev/null 2>&1 3>&- 9>&-
}
