# The boot hook: starts the deadline process at boot on a machine without an agent, so that deadlines are kept after a
# reboot whether the control plane is there or not. The text of that process lies in /var/lib/orion then, and one file of
# what the machine starts anyway runs it: a unit of systemd, a script of OpenRC's `local`, or a line of cron's.
# All of it goes with the last lease.

# boot_hook: sets $boot_hook to the hook that is there: systemd, openrc, cron or none.
boot_hook() {
  boot_hook=none
  if [ ! -r /var/lib/orion/deadline.sh ]; then return 0; fi
  if [ -L /etc/systemd/system/multi-user.target.wants/orion-deadline.service ]; then
    boot_hook=systemd
  elif [ -x /etc/local.d/orion-deadline.start ]; then
    boot_hook=openrc
  elif [ -r /etc/cron.d/orion-deadline ]; then
    boot_hook=cron
  fi
}

# keep_boot_hook: puts the hook there, and the text of $detached_script. Fails where the machine has nothing that could
# run it, or its disk takes no file.
keep_boot_hook() {
  boot_hook
  if [ "$boot_hook" != none ] && [ "$(cat /var/lib/orion/deadline.sh)" = "$(printf %s "$detached_script")" ]; then
    return 0
  fi
  boot_command="/bin/sh /var/lib/orion/deadline.sh boot"
  if [ -d /run/systemd/system ]; then
    boot_dir=/etc/systemd/system boot_file=orion-deadline.service boot_mode=644
    boot_text="[Unit]
Description=Keeps the deadlines of Orion's leases
ConditionPathExists=/var/lib/orion/deadline.sh

[Service]
ExecStart=$boot_command
# The process holds nothing that a signal to end would save, and bash as /bin/sh would start it anew.
KillSignal=SIGKILL

[Install]
WantedBy=multi-user.target"
  elif [ -d /run/openrc ] && [ -d /etc/local.d ] && [ -e /etc/runlevels/default/local ]; then
    boot_dir=/etc/local.d boot_file=orion-deadline.start boot_mode=755
    boot_text="#!/bin/sh
setsid $boot_command </dev/null >/dev/null 2>&1 &"
  elif cron_runs; then
    boot_dir=/etc/cron.d boot_file=orion-deadline boot_mode=644
    boot_text="@reboot root setsid $boot_command </dev/null >/dev/null 2>&1 &"
  else
    return 1
  fi
  put_root_file /var/lib/orion deadline.sh 600 "$detached_script" || return 1
  put_root_file "$boot_dir" "$boot_file" "$boot_mode" "$boot_text" || return 1
  if [ "$boot_file" = orion-deadline.service ]; then
    # As `systemctl enable` does, which needs systemd's answer; it reads the files at boot.
    mkdir -p "$boot_dir/multi-user.target.wants" || return 1
    ln -sfn "$boot_dir/$boot_file" "$boot_dir/multi-user.target.wants/$boot_file" || return 1
  fi
  sync "/var/lib/orion/deadline.sh" "$boot_dir/$boot_file" 2>/dev/null || :
}

# cron_runs: is there a cron that reads /etc/cron.d and knows @reboot? BusyBox's does neither.
cron_runs() {
  cron_pid=
  if [ ! -d /etc/cron.d ] || [ ! -r /run/crond.pid ]; then return 1; fi
  IFS= read -r cron_pid </run/crond.pid || :
  case $cron_pid in "" | *[!0-9]*) return 1 ;; esac
  case $(readlink "/proc/$cron_pid/exe") in "" | */busybox) return 1 ;; esac
}

# put_root_file DIRECTORY NAME MODE TEXT: whole or not at all.
put_root_file() {
  printf "%s\n" "$4" >"$1/.$2.new" && chmod "$3" "$1/.$2.new" && mv -f "$1/.$2.new" "$1/$2" && return 0
  rm -f "$1/.$2.new"
  return 1
}

# remove_boot_hook: on a read-only disk it stays, and ends at once when it finds no lease.
remove_boot_hook() {
  rm -f /etc/systemd/system/multi-user.target.wants/orion-deadline.service /etc/systemd/system/orion-deadline.service \
    /etc/local.d/orion-deadline.start /etc/cron.d/orion-deadline /var/lib/orion/deadline.sh 2>/dev/null || :
}
