# The highest uid that a lease has had on this node, and that lease's ULID: /var/lib/orion/highest_uid. A uid is
# never used twice, also not by a control plane whose database was restored from a backup and has forgotten it.

# read_highest_uid: sets highest_uid (0: none yet) and highest_ulid.
read_highest_uid() {
  highest_uid=0 highest_ulid=
  if [ -r /var/lib/orion/highest_uid ]; then
    IFS=' ' read -r highest_uid highest_ulid </var/lib/orion/highest_uid || :
  fi
  # What a broken disk left there: no uid has more than ten digits.
  case $highest_uid in '' | *[!0-9]* | ???????????*) highest_uid=0 highest_ulid= ;; esac
}

# refuse_used_uid UID ULID: for a new lease only; one that was elsewhere before brings an older uid. After
# read_highest_uid.
refuse_used_uid() {
  if [ "$1" -gt "$highest_uid" ]; then return 0; fi
  if [ "$1" -eq "$highest_uid" ] && [ "$2" = "$highest_ulid" ]; then return 0; fi
  report highest_uid "$highest_uid"
  refuse 68 "the uid $1 is not above $highest_uid, which a lease has had on this node"
}

# remember_uid UID ULID: before the account is made. After read_highest_uid.
remember_uid() {
  if [ "$1" -le "$highest_uid" ]; then return 0; fi
  if [ ! -d /var/lib/orion ]; then mkdir -p /var/lib/orion || return; fi
  # On the disk before it counts: after a power cut the name must not stand for an empty file.
  printf '%s %s\n' "$1" "$2" >/var/lib/orion/.highest_uid.new &&
    { sync /var/lib/orion/.highest_uid.new 2>/dev/null || :; } &&
    mv -f /var/lib/orion/.highest_uid.new /var/lib/orion/highest_uid
}
