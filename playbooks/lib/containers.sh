# Containers: the node's engine by its own program or by curl, and /var/lib/orion/containers/ULID, the node's own memory of
# when the containers of a lease must end. A lease without an account has such a file, too.

# find_engine: sets $engine to docker, podman, or the socket that curl speaks to; fails where the node has none.
find_engine() {
  engine=
  if [ -S /run/docker.sock ]; then
    engine=/run/docker.sock
    if command -v docker >/dev/null; then engine=docker; fi
  elif command -v podman >/dev/null; then engine=podman
  elif [ -S /run/podman/podman.sock ]; then engine=/run/podman/podman.sock
  elif command -v dockerd >/dev/null; then engine=docker
  fi
  [ -n "$engine" ]
}

# engine_api METHOD PATH [SECONDS]: a call by curl; the reply's text goes to standard output. Fails unless its status is of
# success.
engine_api() {
  answer=$(curl -q -sS --max-time "${3:-60}" --unix-socket "$engine" -X "$1" -w "\n%{http_code}" "http://orion$2") || return 1
  printf "%s\n" "${answer%
*}"
  case ${answer##*
} in 2?? | 304 | 404) ;; *) return 1 ;; esac
}

# list_containers ULID: sets $containers to the ids of those with the lease's label and a name that Orion gives, running or
# not. Fails where the engine does not answer.
list_containers() {
  case $engine in
  /*)
    listed=$(engine_api GET "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22orion.lease%3D$1%22%5D%7D" 20) || return 1
    # Quotes inside of a label of an image are escaped, so that none passes for another container.
    listed=$(printf %s "$listed" | grep -o "\"Id\":\"[0-9a-f]*\",\"Names\":\[\"/[^\"]*\"" | cut -d \" -f 4,8 | tr \"/ "  ")
    ;;
  *) listed=$(timeout 20 "$engine" ps --all --no-trunc --filter "label=orion.lease=$1" --format "{{.ID}} {{.Names}}") || return 1 ;;
  esac
  containers=$(printf "%s\n" "$listed" | sed -n "s/^\([0-9a-f]*\)  *orion-[0-9][0-9]*-[0-9][0-9]*\$/\1/p")
}

# end_containers ULID GRACE_S: no restart, SIGTERM, after the grace SIGKILL, removal; sets $ended to their number. Fails
# where the engine does not answer, or one is still there.
end_containers() {
  ended=0
  list_containers "$1" || return 1
  if [ -z "$containers" ]; then return 0; fi
  for id in $containers; do ended=$((ended + 1)); done
  case $engine in
  /*)
    for id in $containers; do
      {
        engine_api POST "/containers/$id/stop?t=$2"
        engine_api DELETE "/containers/$id?force=1&v=1"
      } >/dev/null 2>&1 &
    done
    wait
    ;;
  *)
    # The policy first: an engine that dies and comes back in between starts none again. Old Podman cannot change it.
    timeout 20 "$engine" update --restart=no $containers >/dev/null 2>&1 || :
    timeout "$(($2 + 20))" "$engine" stop --time "$2" $containers >/dev/null 2>&1 || :
    timeout 60 "$engine" rm --force --volumes $containers >/dev/null 2>&1 || :
    ;;
  esac
  list_containers "$1" && [ -z "$containers" ]
}

# store_containers ULID LEASE DEADLINE_BOOT_S DEADLINE_UNIX_S REMAINING_S [1 = ended]
store_containers() {
  if [ ! -d /var/lib/orion/containers ]; then mkdir -p /var/lib/orion/containers || return; fi
  read -r boot_id </proc/sys/kernel/random/boot_id
  containers_file=/var/lib/orion/containers/.$1.new
  echo "lease=$2
boot_id=$boot_id
deadline_boot_s=$3
deadline_unix_s=$4
remaining_s=$5${6:+
locked=1}" >"$containers_file" && is_whole "$containers_file" && { sync "$containers_file" 2>/dev/null || :; } &&
    mv -f "$containers_file" "/var/lib/orion/containers/$1" && return 0
  rm -f "$containers_file"
  return 1
}

# read_containers ULID: sets of_lease, of_boot_id, of_boot_s, of_unix_s, of_remaining_s and of_ended; fails when the file is
# absent or makes no sense.
read_containers() {
  of_lease= of_boot_id= of_boot_s= of_unix_s= of_remaining_s= of_ended=
  case $1 in *[!0-9A-Z]* | "") return 1 ;; esac
  while IFS="=" read -r key value; do
    case $key in
    lease) of_lease=$value ;;
    boot_id) of_boot_id=$value ;;
    deadline_boot_s) of_boot_s=$value ;;
    deadline_unix_s) of_unix_s=$value ;;
    remaining_s) of_remaining_s=$value ;;
    locked) of_ended=$value ;;
    esac
  done 2>/dev/null <"/var/lib/orion/containers/$1" || return 1
  for value in "$of_lease" "$of_boot_s" "$of_unix_s" "$of_remaining_s"; do
    case $value in "" | *[!0-9]* | ???????????????*) return 1 ;; esac
  done
  [ -n "$of_boot_id" ]
}
