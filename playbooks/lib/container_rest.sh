# What only playbooks do with containers: removing the networks and volumes of a lease, and giving it a deadline.

# remove_rest ULID: the networks and volumes of a lease. Sets $left to those that are still there; fails where the engine
# does not answer.
remove_rest() {
  left=
  for kind in network volume; do
    list_rest "$kind" "$1" || return 1
    for id in $rest; do
      case $engine in
      /*) engine_api DELETE "/${kind}s/$id" >/dev/null 2>&1 || : ;;
      *) timeout 30 "$engine" "$kind" rm "$id" >/dev/null 2>&1 || : ;;
      esac
    done
    list_rest "$kind" "$1" || return 1
    left="$left $rest"
  done
  left=$(echo $left)
}

# end_left_start ID: ends what an engine left that was killed in the middle of starting this container. It no more knows the
# process, which keeps the container from starting (Docker 20.10). Fails where there is none.
end_left_start() {
  left=1
  for process in /proc/[0-9]*/cmdline; do
    words=$(tr '\0' ' ' <"$process" 2>/dev/null) || continue
    program=${words%% *}
    case ${program##*/},$words in
    containerd-shim*,*" -namespace moby -id $1"*)
      process=${process%/cmdline}
      kill -KILL "${process##*/}" && left=0
      ;;
    esac
  done
  return "$left"
}

# orphans_run: runs a container of Docker or Podman whose engine may be gone?
orphans_run() {
  for process in /proc/[0-9]*/cmdline; do
    words=$(tr '\0' ' ' <"$process" 2>/dev/null) || continue
    program=${words%% *}
    case ${program##*/},$words in
    containerd-shim*,*" -namespace moby "* | conmon,*) return 0 ;;
    esac
  done
  return 1
}

# list_rest network|volume ULID: sets $rest to the names of those with the lease's label and a name that Orion gives.
list_rest() {
  case $engine in
  /*)
    listed=$(engine_api GET "/${1}s?filters=%7B%22label%22%3A%5B%22orion.lease%3D$2%22%5D%7D") || return 1
    listed=$(printf %s "$listed" | grep -o '"Name":"[^"]*"' | cut -d '"' -f 4)
    ;;
  *) listed=$(timeout 20 "$engine" "$1" ls --filter "label=orion.lease=$2" --format '{{.Name}}') || return 1 ;;
  esac
  rest=$(printf '%s\n' "$listed" | awk '/^orion-/')
}

# write_containers LEASE ULID SECONDS_FROM_NOW
write_containers() {
  read -r uptime rest </proc/uptime
  uptime=${uptime%%.*}
  now=$(date +%s)
  store_containers "$2" "$1" "$((uptime + $3))" "$((now + $3))" "$3" ''
}
