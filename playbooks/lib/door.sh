# The door: how an account is shut whatever its tenant did to the machine. Tried in this order:
#   locked   by the tools, as a person would
#   struck   one byte each of /etc/passwd and /etc/shadow is changed in place: needs no room, no inode and nobody's
#            lock. The shell becomes a path that is none, which sshd refuses, and the hash one that nothing matches
#   covered  copies in memory are mounted over the two files, in which the bytes are changed: for a read-only /etc
# Whoever changes the account files without knowing of it may undo it: what keeps deadlines looks again every second.

# shut_door: shuts the account $user of uid $uid and sets $door; fails when it is still open. none: no such account.
shut_door() {
  door=none
  read_account
  if [ -z "$account_uid" ] || [ "$account_uid" != "$uid" ]; then return 0; fi
  door=locked
  if account_locked; then return 0; fi
  lock_status=0
  lock_account "$user" || lock_status=$?
  read_account
  if account_locked; then return 0; fi
  # What waited for somebody's lock waits again; what failed for want of room need not.
  if [ "$lock_status" -ne 124 ] && free_reserve; then
    lock_account "$user" || :
    read_account
    if account_locked; then return 0; fi
  fi
  door=struck
  strike_account
  read_account
  if account_locked; then return 0; fi
  door=covered
  if cover_files; then strike_account; fi
  read_account
  if account_locked; then return 0; fi
  door=open
  return 1
}

# strike_door: shuts the door of $user of uid $uid in the quickest way, before what may take long.
strike_door() {
  read_account
  if [ -n "$account_uid" ] && [ "$account_uid" = "$uid" ] && ! account_locked; then strike_account; fi
}

strike_account() {
  strike_byte /etc/passwd 7 || :
  if [ -e /etc/shadow ]; then strike_byte /etc/shadow 2 || :; fi
}

# strike_byte FILE FIELD: the first byte of that field of $user becomes "!". The place is looked up in the same open
# file that is written: a file that replaces it meanwhile is never hit at a wrong place.
strike_byte() {
  {
    place=$(awk -F: -v user="$user" -v field="$2" '
      $1 "" == user "" {
        for (i = 1; i < field; i++) before += length($i) + 1
        if (substr($field, 1, 1) != "!" && $field != "" && $field != "/bin/false") print before + 0
        exit
      }
      { before += length($0) + 1 }' </proc/self/fd/8)
    if [ -n "$place" ]; then
      printf "!" | dd of=/proc/self/fd/8 bs=1 "seek=$place" conv=notrunc 3>&- 9>&-
    fi
  } 8<>"$1"
}

is_covered() {
  grep -q " /[^ ]*orion/door/passwd /etc/passwd " /proc/self/mountinfo
}

cover_files() {
  mkdir -p /run/orion/door || return 1
  for file in passwd shadow; do
    if grep -q " /[^ ]*orion/door/$file /etc/$file " /proc/self/mountinfo; then continue; fi
    cp -p "/etc/$file" "/run/orion/door/$file" || return 1
    mount -o bind "/run/orion/door/$file" "/etc/$file" || return 1
  done
}

# uncover_files: takes the copies away as soon as the files themselves can be changed; who was shut stays shut.
uncover_files() {
  if ! is_covered; then return 0; fi
  if ! etc_has_room; then return 1; fi
  shut=$(awk -F: '$7 ~ /^!/ { print $1 ":" $3 }' /etc/passwd)
  umount -l /etc/shadow || :
  umount -l /etc/passwd || :
  rm -rf /run/orion/door
  for one in $shut; do
    (user=${one%%:*} uid=${one##*:}; shut_door) || :
  done
}
