# Processes: find and end every process of a uid, also the ones that fork faster than one can kill.

# scan_processes UID: sets $pids to the live processes that carry UID in any of the four Uid: fields
# (real, effective, saved, file system: a set-uid helper shows the tenant in only one of them), and
# $awake to how many of them are not stopped. A zombie counts only while it still has other threads.
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
        if (state !~ /[TtZ]/) awake++
      }
      print awake + 0 list
    }' [0-9]*)
  awake=${scanned%% *}
  case $scanned in
  *' '*) pids=${scanned#* } ;;
  [0-9]*) pids= ;;
  *) return 70 ;;
  esac
}

# kill_processes UID USER: sets $killed. A kill of "all that I may" by a process of the uid itself is done by
# the kernel in one go, so not even a process that starts its successor and ends, faster than one can read
# /proc, escapes it. What shows the uid in another field only, or shot first, is stopped (what is stopped
# forks no more, and its parent does not notice) and then killed, round after round.
# Should the process table be so full that this shell cannot fork, it dies of that; the EXIT trap then
# kills with builtins only, and the run ends with 75: try again.
kill_processes() {
  killed=0 known=' ' round=0
  trap "kill_without_forking $1; ${when_full:-exit 75}" EXIT
  if [ -w "/sys/fs/cgroup/user.slice/user-$1.slice/cgroup.kill" ]; then
    echo 1 >"/sys/fs/cgroup/user.slice/user-$1.slice/cgroup.kill" || :
  fi
  while :; do
    scan_processes "$1" || { trap - EXIT; return 70; }
    if [ -z "$pids" ]; then break; fi
    round=$((round + 1))
    if [ "$round" -gt 50 ]; then
      trap - EXIT
      echo "processes of uid $1 do not end: $pids" >&2
      return 70
    fi
    for pid in $pids; do
      case $known in *" $pid "*) ;; *) known="$known$pid " killed=$((killed + 1)) ;; esac
    done
    as_tenant "$2" "$1" 'kill -KILL -1' </dev/null || :
    if [ "$round" = 1 ]; then continue; fi
    if [ "$awake" -gt 0 ] && [ "$round" -le 20 ]; then
      kill -STOP $pids 2>/dev/null || :
    else
      kill -KILL $pids 2>/dev/null || :
    fi
    if [ "$round" -gt 6 ]; then sleep 0.1 2>/dev/null || sleep 1; fi
  done
  trap - EXIT
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
