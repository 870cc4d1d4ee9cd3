# How what a tenant left is removed.

# unmount_all: FUSE mounts of the tenant, and whatever is mounted below its home or run-time directory. /proc knows real
# paths only, and /home may be a link.
unmount_all() {
  real_home=$(cd -P /home 2>/dev/null && pwd) || real_home=/home
  real_home=${real_home%/}/$login
  while read -r id parent device root point options rest; do
    super=${rest##* }
    decode "$point"
    case ",$super," in *",user_id=$uid,"*) ;; *)
      case $decoded in
      "/home/$login" | "/home/$login/"* | "$real_home" | "$real_home/"* | "/run/user/$uid" | "/run/user/$uid/"*) ;;
      *) continue ;;
      esac
      report unmounted "$(printf '%s' "$decoded" | tr '\n' ' ')"
      ;;
    esac
    # Not by the whole path: somebody else may have put a link there meanwhile.
    (cd -P "${decoded%/*}/" && [ "${PWD%/}" = "${decoded%/*}" ] && umount -l "./${decoded##*/}") 3>&- 9>&- || :
  done </proc/self/mountinfo
}

# choose_places: sets $places to what list_places says, without what lies in another of them on the same file system,
# and $unsearched. $places is empty when that fails.
choose_places() {
  places=$(list_places)
  unsearched=$(printf '%s\n' "$places" | sed -n 's/^!//p' | tr '\n' ' ')
  places=$({
    # How many there are is not ours to say: they are no argument list.
    stat_status=0
    printf '%s\n' "$places" | grep '^/' | tr '\n' '\0' | xargs -0 stat -L -c '%d %n' 2>/dev/null || stat_status=$?
    printf 'end %s\n' "$stat_status"
  } | awk '
    /^end / { ended = $2 <= 123; next }
    { device = $1; sub(/^[^ ]* /, ""); if ($0 in on) next; on[$0] = device; name[++count] = $0 }
    END {
      if (!ended) exit
      for (i = 1; i <= count; i++) {
        above = name[i]
        while (sub(/\/[^\/]*$/, "", above) && above != "") if (above in on && on[above] == on[name[i]]) break
        if (above == "") print name[i]
      }
    }') || :
}

# find_in_places EXPRESSION...: find in each of $places. -H: the places themselves may be links, nothing below is
# followed. A find that did not run, or died, is said as a line of its output.
find_in_places() {
  printf '%s\n' "$places" | while IFS= read -r place; do
    while [ "$place" != "${place%/}" ]; do place=${place%/}; done
    real_place=$(cd -P "${place:-/}" && pwd) || continue
    real_place=${real_place%/} find_status=0
    export place real_place
    find -H "${place:-/}" -xdev "$@" </dev/null || find_status=$?
    if [ "$find_status" -gt 1 ]; then printf 'find: %s could not be searched\n' "$place"; fi
  done
}

# remove_files: removes every file of $uid from the places, and the home of $login, round after round while there is
# progress. Sets $files (how many went), and $left (what is still there, a few of it).
remove_files() {
  # What lies on a mount of the tenant's may keep waiting whoever looks.
  unmount_all
  if [ -z "${places:-}" ]; then choose_places; fi
  case $places in /*) ;; *) refuse 70 "the places in which a tenant can leave files could not be listed" ;; esac
  export uid login
  files=0 rounds=0 left='' left_count=0
  # GNU's find removes an entry of the directory that it has open. BusyBox's goes by the whole path, in which another
  # user of the machine may put a link meanwhile: so it removes with the tenant's rights what these can remove, and the
  # rest is removed by a script that knows where it is.
  case $(find --version 2>/dev/null) in
  *GNU*) set -- -delete -print ;;
  *)
    remove_as_tenant
    set -- -depth -exec /bin/sh -c "$enter$remove_entry" orion {} \;
    ;;
  esac
  while :; do
    rounds=$((rounds + 1))
    # -xdev: no other file system.
    went=$(find_in_places \( -user "$uid" -o -path "/home/$login" -o -path "/home/$login/*" \) \
      "$@" 2>&1 | awk '/^\// { went++ } /^find: / { complaints = 1 } END { print went + 0, complaints + 0 }')
    files=$((files + ${went% *}))
    if [ "${went#* }" = 0 ] && [ "$1" = -delete ]; then return 0; fi
    before=$left_count
    list_left
    if [ "$left_count" -eq 0 ]; then return 0; fi
    if [ "$rounds" -gt 2 ] && [ "$left_count" = "$before" ]; then break; fi
    # What is left: subvolumes, trees deeper than a path may be long, mounts on such paths, directories with files
    # of others in them.
    find_in_places -type d \( -user "$uid" -o -path "/home/$login" \) -prune \
      -exec /bin/sh -c "$enter$remove_directory" orion {} "$remove_subvolume" "$is_mounted" \; >/dev/null 2>&1 || :
    unmount_all
  done
  # A directory in which somebody else keeps files: those stay, and the directory becomes root's.
  kept=$(find_in_places -depth -type d -user "$uid" -exec /bin/sh -c "$enter$keep_directory" orion {} \; 2>/dev/null) || :
  if [ -n "$kept" ]; then report kept "$(printf '%s' "$kept" | tr '\n' ' ')"; fi
  list_left
}

# remove_as_tenant: adds what went to $files.
remove_as_tenant() {
  list_left
  before=$left_count
  if [ "$before" -eq 0 ]; then return 0; fi
  printf '%s\n' "$places" | as_tenant "$user" "$uid" 'while IFS= read -r place; do
    find -H "$place" -xdev -type d -user '"$uid"' ! -perm -0700 -exec chmod u+rwx {} \;
    find -H "$place" -xdev -user '"$uid"' -delete
  done' '' 30 KILL || :
  list_left
  files=$((before - left_count)) left_count=0
}

# list_left: sets $left_count and $left.
list_left() {
  left=$(find_in_places \( -user "$uid" -o -path "/home/$login" -o -path "/home/$login/*" \) -print 2>/dev/null |
    awk 'NR <= 5 { first = first " " $0 } END { print NR first }')
  left_count=${left%% *}
  case $left in *' '*) left=${left#* } ;; *) left= ;; esac
}

# find puts a name wherever "{}" stands, also inside of these texts, where a name would be a command. They must not
# contain it.
braces='{}'
export braces

# enter DIRECTORY: goes to a directory that find named below $place, and fails if a link led elsewhere: somebody else
# may have put it there meanwhile. What is done from then on names nothing but entries of that directory.
enter='
  enter() {
    cd -P "${1:-/}" 2>/dev/null || return 1
    expected=$real_place${1#"$place"}
    [ "$PWD" = "${expected:-/}" ]
  }
  in_home() { case $1 in "/home/$login" | "/home/$login"/*) return 0 ;; esac; return 1; }
'

# Removes one entry $1.
remove_entry='
  enter "${1%/*}" || exit 0
  name=./${1##*/}
  if ! in_home "$1" && [ "$(stat -c %u "$name")" != "$uid" ]; then exit 0; fi
  if [ -d "$name" ] && [ ! -L "$name" ]; then rmdir "$name"; else rm -f "$name"; fi && printf "%s\n" "$1"'

# Of a directory $1 that find could not remove: removes the subvolumes in it ($2 does), and lifts what lies deep in it
# to its top, a few levels at a time, so that paths become short again. Nothing of the tenant runs any more; but others
# may.
remove_directory='
  enter "$1" || exit 0
  everything=no
  if in_home "$1"; then everything=yes; elif [ "$(stat -c %u .)" != "$uid" ]; then exit 0; fi
  top=$PWD
  own=$(stat -c %d .) || exit 0
  export everything top
  find . -xdev -depth -type d -exec /bin/sh -c "$2" "$own" "$braces" "$2" "$3" \;
  number=0 depth=0 up=.
  while :; do
    next=
    for entry in ./* ./.[!.]* ./..?*; do
      if [ -d "$entry" ] && [ ! -L "$entry" ]; then next=$entry; break; fi
    done
    if [ -z "$next" ]; then break; fi
    here=$PWD
    if [ "$depth" -lt 8 ]; then
      cd -P "$next" || break
      if [ "$PWD" != "$here${next#.}" ]; then break; fi
      depth=$((depth + 1)) up=../$up
      continue
    fi
    case $everything,$(stat -c "%d,%u" "$next") in yes,"$own",* | no,"$own","$uid") ;; *) break ;; esac
    number=$((number + 1)) depth=0
    lifted=.orion-$$-$number
    if ! (cd -P "$up" && [ "$PWD" = "$top" ]) || [ -e "$up/$lifted" ] || ! mv "$next" "$up/$lifted"; then break; fi
    cd -P "$up/$lifted" || break
    if [ "$PWD" != "$top/$lifted" ]; then break; fi
    up=..
  done'

# A directory $1 on another device than $0 that is no mount point ($3 tells) and that btrfs calls one is a subvolume;
# those in it go first ($2 is this text). One of somebody else, or with files of others in it, stays.
remove_subvolume='
  own=$(stat -c %d "$1") || exit 0
  if [ "$own" = "$0" ]; then exit 0; fi
  cd -P "${1%/*}" || exit 0
  case $PWD in "$top" | "$top"/*) ;; *) exit 0 ;; esac
  name=./${1##*/}
  if [ -L "$name" ] || [ "$(stat -c %i "$name")" != 256 ] || [ "$(stat -f -c %T "$name")" != btrfs ]; then exit 0; fi
  if directory=$PWD/${name#./} awk "$3" /proc/self/mountinfo; then exit 0; fi
  if [ "$everything" = no ] && [ "$(stat -c %u "$name")" != "$uid" ]; then exit 0; fi
  btrfs property set -f "$name" ro false || btrfs property set "$name" ro false
  find "$name" -xdev -depth -type d -exec /bin/sh -c "$2" "$own" "$braces" "$2" "$3" \;
  if [ "$everything" = no ] && [ -n "$(find "$name" -xdev ! -user "$uid" | head -n 1)" ]; then
    find "$name" -xdev -depth -user "$uid" -delete
    exit 0
  fi
  btrfs subvolume delete "$name" || find "$name" -xdev -depth -user "$uid" -delete'

# Is $directory a mount point?
is_mounted='
  { gsub(/\\040/, " ", $5); gsub(/\\011/, "\t", $5); gsub(/\\012/, "\n", $5); gsub(/\\134/, "\\", $5) }
  $5 == ENVIRON["directory"] { found = 1 }
  END { exit !found }'

# Gives a directory $1 of $uid to root if somebody else has files in it, and prints its name.
keep_directory='
  enter "$1" || exit 0
  if [ "$(stat -c %u .)" != "$uid" ]; then exit 0; fi
  if [ -n "$(find . -xdev ! -user "$uid" -print 2>/dev/null | head -n 1)" ]; then chown -h 0:0 . && printf "%s\n" "$1"; fi'

# remove_ipc: System V objects, and message queues, also where /dev/mqueue is not mounted. Where it cannot be, queues
# are named in $unsearched.
remove_ipc() {
  for kind in shm sem msg; do
    if [ ! -r "/proc/sysvipc/$kind" ]; then continue; fi
    case $kind in shm) option=-m ;; sem) option=-s ;; msg) option=-q ;; esac
    {
      read -r header || :
      while read -r line; do
        case " $line " in *" $uid "*) ;; *) continue ;; esac
        # Which column is the owner is said by the header.
        id=$(printf '%s\n%s\n' "$header" "$line" | awk -v uid="$uid" '
          NR == 1 { for (i = 1; i <= NF; i++) { if ($i == "uid") u = i; if ($i == "cuid") c = i; if ($i ~ /id$/ && i == 2) id = i } }
          NR == 2 && ($u == uid || $c == uid) { print $id }')
        if [ -n "$id" ]; then ipcrm "$option" "$id" || :; fi
      done
    } <"/proc/sysvipc/$kind"
  done
  # One that is mounted already may be that of another IPC namespace.
  if ! grep -qw mqueue /proc/filesystems; then return 0; fi
  if mkdir -p /run/orion/mqueue && mount -t mqueue mqueue /run/orion/mqueue; then
    find /run/orion/mqueue -xdev -user "$uid" -delete || :
    if [ -n "$(find /run/orion/mqueue -xdev -user "$uid")" ]; then problems="${problems}message queues of uid $uid are still there; "; fi
    umount -l /run/orion/mqueue || :
  else
    unsearched="${unsearched}mqueue "
  fi
}
