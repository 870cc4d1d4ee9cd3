# Processes: find and end every process of a uid, also the ones that fork faster than one can kill.

# scan_processes UID: sets $pids to the live processes that carry UID in any of the four Uid: fields
# (real, effective, saved, file system: a set-uid helper shows the tenant in only one of them). A zombie counts only
# while it still has other threads.
scan_processes() {
  scanned=$(cd /proc && awk -v id="$1" '
    BEGIN {
      for (i = 1; i < ARGC; i++) {
        file = ARGV[i] "/status"; state = ""; mine = 0; threads = 1
        while ((getline line < file) > 0) {
          if (line ~ /^State:/) { split(line, word); state = word[2] }
          else if (line ~ /^Uid:/) {
            split(line, word)
            for (n = 2; n <= 5; n++) if (word[n] "" == id "") mine = 1
            if (!mine || state != "Z") break
          }
          else if (line ~ /^Threads:/) { split(line, word); threads = word[2]; break }
        }
        close(file)
        if (!mine || state == "X" || (state == "Z" && threads < 2)) continue
        list = list " " ARGV[i]
      }
      print "pids" list
    }' [0-9]*)
  case $scanned in
  "pids "*) pids=${scanned#* } ;;
  pids) pids= ;;
  *) return 70 ;;
  esac
}

# kill_processes UID USER [ROUNDS]: sets $killed, and $pids to those that do not end (then it fails, with 70). In each
# round what is found is stopped (what is stopped forks no more, stops nobody else, and its parent does not notice); then
# a process of the uid itself kills "all that I may", which the kernel does in one go, so that not even a process
# that starts its successor and ends, faster than one can read /proc, escapes it; and what is left, because it shows the
# uid in another field only or stopped that process, is killed by number. From the third round on the newest process of
# the machine is stopped as fast as this shell can, which ends a chain of such successors that stop whatever comes near.
# Should the process table be so full that this shell cannot fork, it dies of that; the EXIT trap then
# kills with builtins only, and the run ends with 75: try again.
kill_processes() {
  killed=0 known=" " round=0
  trap "kill_without_forking $1; ${when_full:-exit 75}" EXIT
  if [ -w "/sys/fs/cgroup/user.slice/user-$1.slice/cgroup.kill" ]; then
    echo 1 >"/sys/fs/cgroup/user.slice/user-$1.slice/cgroup.kill" || :
  fi
  scan_processes "$1" || { trap - EXIT; return 70; }
  while [ -n "$pids" ]; do
    round=$((round + 1))
    if [ "$round" -gt "${3:-50}" ]; then
      trap - EXIT
      return 70
    fi
    for pid in $pids; do
      case $known in *" $pid "*) ;; *) known="$known$pid " killed=$((killed + 1)) ;; esac
    done
    kill -STOP $pids 2>/dev/null || :
    if [ "$round" -gt 2 ]; then stop_newest "$1"; fi
    as_tenant "$2" "$1" "kill -KILL -1" "" 1 KILL </dev/null || :
    # A number may have another process by now, so they are looked up again.
    scan_processes "$1" || { trap - EXIT; return 70; }
    if [ -z "$pids" ]; then break; fi
    kill -KILL $pids 2>/dev/null || :
    if [ "$round" -gt 6 ]; then sleep 0.1 2>/dev/null || sleep 1; fi
    scan_processes "$1" || { trap - EXIT; return 70; }
  done
  trap - EXIT
}

# stop_newest UID: stops the process that was started last, if it is of UID, some hundred times.
stop_newest() {
  turns=0
  while [ "$turns" -lt 300 ]; do
    turns=$((turns + 1))
    read -r load load load load newest </proc/loadavg
    ids=
    while read -r key first second rest; do
      if [ "$key" = Uid: ]; then
        ids=" $first $second "
        break
      fi
    done 2>/dev/null <"/proc/$newest/status" || continue
    case $ids in *" $1 "*) kill -STOP "$newest" 2>/dev/null || : ;; esac
  done
}

# end_logins USER: ends sshd's own processes, root's, that serve the user: one that has just been let in must not start
# a shell when everything else of it has been killed.
end_logins() {
  for directory in /proc/[0-9]*; do
    name=
    read -r name 2>/dev/null <"$directory/comm" || continue
    case $name in sshd | sshd-*) ;; *) continue ;; esac
    if [ ! -O "$directory" ]; then continue; fi
    title=
    IFS= read -r title 2>/dev/null <"$directory/cmdline" || :
    case $title in
    "sshd: $1 ["* | "sshd: $1@"* | "sshd-session: $1 ["* | "sshd-session: $1@"*)
      kill -KILL "${directory#/proc/}" 2>/dev/null || :
      ;;
    esac
  done
}

# The same without a single fork, for the EXIT trap.
kill_without_forking() {
  before=none
  for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    pids=
    for directory in /proc/[0-9]*; do
      state= ids=
      if [ ! -r "$directory/status" ]; then continue; fi
      while read -r key first second third fourth rest; do
        case $key in
        State:) state=$first ;;
        Uid:)
          ids=" $first $second $third $fourth "
          break
          ;;
        esac
      done 2>/dev/null <"$directory/status" || continue
      if [ "$state" = Z ]; then continue; fi
      case $ids in *" $1 "*) pids="$pids ${directory#/proc/}" ;; esac
    done
    if [ -z "$pids" ]; then return 0; fi
    if [ "$pids" = "$before" ]; then kill -KILL $pids 2>/dev/null || :; fi
    kill -STOP $pids 2>/dev/null || :
    before=$pids
  done
}
