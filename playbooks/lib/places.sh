# Where a tenant can leave files.

# decode TEXT: sets $decoded to a path as /proc/self/mountinfo writes it, line breaks at its end included.
decode() {
  decoded=$(printf "%b." "$1")
  decoded=${decoded%.}
}

usual_places="/tmp /var/tmp /dev/shm /dev/mqueue /run /var/spool /var/mail /home"

# list_places: prints the directories in which a tenant can leave files, one a line, and "!KIND PATH" for mounts that
# are not looked at. They are: the usual ones; what /etc/orion/places names; directories of this machine's file systems
# that everybody may write to, of the first three levels as they are now, deeper ones as the deadline process found
# them last (/run/orion/places).
list_places() {
  for directory in $usual_places; do
    if [ -d "$directory" ]; then printf "%s\n" "$directory"; fi
  done
  for file in /etc/orion/places /run/orion/places; do
    if [ ! -r "$file" ]; then continue; fi
    while IFS= read -r directory; do
      case $directory in "!"*) printf "%s\n" "$directory" ;; /*) if [ -d "$directory" ]; then printf "%s\n" "$directory"; fi ;; esac
    done <"$file"
  done
  find_places -maxdepth 3
}

# find_places [-maxdepth N]: prints what everybody may write to on each file system of this machine. The usual places
# are searched whole, so are the file systems below them: what a tenant makes there must not make this list long.
find_places() {
  real_places=
  for directory in $usual_places; do
    real=$(cd -P "$directory" 2>/dev/null && pwd) || continue
    real_places="$real_places $real"
    set -- "$@" ! \( -path "$real" -prune \)
  done
  while read -r id parent device root point options rest; do
    kind=" $rest"
    kind=${kind#* - }
    kind=${kind%% *}
    case $kind in
    proc | sysfs | cgroup | cgroup2 | devpts | debugfs | tracefs | securityfs | pstore | bpf | configfs | fusectl | \
      binfmt_misc | autofs | rpc_pipefs | nsfs | efivarfs | selinuxfs | squashfs | iso9660) continue ;;
    overlay) if [ "$point" != / ]; then continue; fi ;;
    nfs | nfs4 | cifs | smb3 | ceph | 9p | lustre | beegfs | gpfs | afs | fuse | fuse.*)
      if [ "$point" != / ]; then
        printf "!%s %s\n" "$kind" "$point"
        continue
      fi
      ;;
    esac
    decode "$point"
    if [ ! -d "$decoded" ]; then continue; fi
    usual=no
    for real in $real_places; do
      case $decoded in "$real" | "$real"/*) usual=yes ;; esac
    done
    if [ "$usual" = yes ]; then
      printf "%s\n" "$decoded"
      continue
    fi
    # Where others may not pass nobody gets to what lies below.
    ${nicely:-} find -H "$decoded" -xdev "$@" -type d \( ! -perm -0001 -prune -o -perm -0002 -print -prune \) 2>/dev/null || :
  done </proc/self/mountinfo
}
