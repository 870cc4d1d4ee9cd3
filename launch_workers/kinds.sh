#!/bin/bash
# The kinds of worker of the engine `namespace` beside Debian's defaults, sourced by boot.sh (and by namespace.sh for
# KINDS and check_kind). Each function runs in the worker's tree before it becomes the root; what is absolute is
# still the machine's.
#
#   hardened  sshd, login.defs, umask and mounts as hardening guides have them; /home is btrfs with a qgroup limit
#   busybox   a root of BusyBox's tools, with OpenSSH's sshd and no PAM
#   systemd   systemd is PID 1: units, logind, user managers, a journal
#   foreign   holds accounts, ids, processes and files that are not Orion's, in the range of Orion's uids
#
# What a kind cannot have on a kernel: disk quotas, netem and cgroup version 2's limits are not asked for; core
# dumps go where the machine's kernel.core_pattern says, which no namespace changes.
# shellcheck disable=SC2034 # KINDS is for those that source this file

KINDS='debian hardened busybox systemd foreign'

# Dies, by the caller's `die`, when the machine lacks what the kind is made of.
check_kind() { # KIND
    local module
    case $1 in
        debian) ;;
        hardened)
            command -v mkfs.btrfs >/dev/null || die "the kind 'hardened' needs mkfs.btrfs" "apt-get install btrfs-progs"
            grep -qw btrfs /proc/filesystems || modprobe -q btrfs || die "the kernel has no btrfs"
            [ -e /dev/loop-control ] || modprobe -q loop || die "the kernel has no loop devices"
            ;;
        busybox) command -v ldd >/dev/null || die "the kind 'busybox' needs ldd" "apt-get install libc-bin" ;;
        systemd)
            [ -x /lib/systemd/systemd ] || die "the kind 'systemd' needs systemd" "apt-get install systemd"
            command -v dbus-daemon >/dev/null || die "the kind 'systemd' needs dbus" "apt-get install dbus"
            [ -d /sys/fs/cgroup/systemd ] || die "the kind 'systemd' needs the hierarchy name=systemd of cgroup version 1"
            for module in /lib/*/security/pam_systemd.so /lib/security/pam_systemd.so; do
                [ ! -e "$module" ] || return 0
            done
            die "the kind 'systemd' needs pam_systemd" "apt-get install libpam-systemd"
            ;;
        foreign)
            for module in /usr/lib/{,*/}libnss_extrausers.so.2; do
                [ ! -e "$module" ] || return 0
            done
            die "the kind 'foreign' needs libnss-extrausers" "apt-get install libnss-extrausers"
            ;;
        *) die "there is no kind '$1'" "one of: $KINDS" ;;
    esac
}

# --- hardened ------------------------------------------------------------------------------------------

first_boot_hardened() {
    cat >etc/ssh/sshd_config.d/50-hardening.conf <<'CONFIG'
# As guides for hardened servers have it. `orion-lease` in AllowGroups is what Orion asks for (docs/NODES.md).
KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
HostKeyAlgorithms ssh-ed25519,ssh-ed25519-cert-v01@openssh.com
AllowGroups root ssh-users orion-lease
AuthorizedKeysFile .ssh/authorized_keys
AllowTcpForwarding no
AllowAgentForwarding no
AllowStreamLocalForwarding no
X11Forwarding no
PermitTunnel no
PermitUserEnvironment no
PermitEmptyPasswords no
HostbasedAuthentication no
IgnoreRhosts yes
StrictModes yes
Compression no
LoginGraceTime 30
MaxAuthTries 3
MaxSessions 2
ClientAliveInterval 300
ClientAliveCountMax 2
LogLevel VERBOSE
Banner /etc/issue.net
CONFIG
    echo 'Authorized users only. All activity is recorded.' >etc/issue.net
    sed -i -E -e '/^#?[[:space:]]*(PASS_MAX_DAYS|PASS_MIN_DAYS|PASS_WARN_AGE|UMASK|LOGIN_RETRIES|USERGROUPS_ENAB)[[:space:]]/d' etc/login.defs
    printf '%s\n' 'PASS_MAX_DAYS 90' 'PASS_MIN_DAYS 7' 'PASS_WARN_AGE 14' 'UMASK 077' 'LOGIN_RETRIES 3' \
        'USERGROUPS_ENAB no' >>etc/login.defs
    sed -i '/^INACTIVE=/d' etc/default/useradd
    echo 'INACTIVE=30' >>etc/default/useradd
    printf '%s\n' 'umask 077' 'readonly TMOUT=900; export TMOUT' >etc/profile.d/hardening.sh
    printf '%s\n' '' 'umask 077' >>etc/bash.bashrc
    echo 'session optional pam_umask.so umask=0077' >>etc/pam.d/common-session
    mkdir -p etc/security/limits.d
    echo '* hard core 0' >etc/security/limits.d/hardening.conf
    echo root >etc/cron.allow
    echo root >etc/at.allow
    truncate -s 256M ../home.btrfs
    mkfs.btrfs -q ../home.btrfs
}
boot_hardened() {
    local options=nosuid,nodev,noexec
    mount -o "loop,nosuid,nodev" ../home.btrfs home
    if [ -n "$first_boot" ]; then
        btrfs quota enable home
        btrfs qgroup limit 160M home
    fi
    mount -o "remount,$options,mode=1777" tmp
    mount -o "remount,$options,mode=1777" dev/shm
    mount --bind var/tmp var/tmp
    mount -o "remount,bind,$options" var/tmp
    mount -o remount,hidepid=2 proc
}

# --- busybox -------------------------------------------------------------------------------------------

# The lower layer of every such worker, made once: nothing but BusyBox, OpenSSH and the libraries that it names.
make_busybox_root() { # ROOT BUSYBOX
    local root=$1 busybox=$2 tool program
    mkdir -p "$root"/{bin,sbin,usr/{bin,sbin,lib/openssh,local/bin},etc/ssh/sshd_config.d,dev,proc,sys,run,var/{lib,log,empty,mail,spool/cron/crontabs},home}
    mkdir -m 1777 "$root/tmp" "$root/var/tmp"
    mkdir -m 700 "$root/root"
    cp "$busybox" "$root/bin/busybox"
    for tool in $("$busybox" --list-full); do
        mkdir -p "$root/$(dirname "$tool")"
        [ -e "$root/$tool" ] || ln -s /bin/busybox "$root/$tool"
    done
    for program in /usr/sbin/sshd /usr/bin/ssh /usr/bin/ssh-keygen /usr/lib/openssh/sftp-server; do
        cp "$program" "$root$program"
        copy_libraries "$root" "$program"
    done
    copy_libraries "$root" "$AGENT" # an agent of glibc; a static one names none
    printf '%s\n' root:x:0:0:root:/root:/bin/sh sshd:x:22:22:sshd:/var/empty:/bin/false \
        nobody:x:65534:65534:nobody:/:/bin/false >"$root/etc/passwd"
    (umask 077 && printf '%s\n' 'root:*:19000:0:99999:7:::' 'sshd:!:19000::::::' 'nobody:!:19000::::::' >"$root/etc/shadow")
    printf '%s\n' root:x:0: tty:x:5: mail:x:8: utmp:x:43: shadow:x:42: sshd:x:22: nobody:x:65534: >"$root/etc/group"
    printf '%s\n' /bin/sh /bin/ash >"$root/etc/shells"
    chmod 711 "$root/var/empty"
    chmod 1730 "$root/var/spool/cron/crontabs"
}
copy_libraries() { # ROOT PROGRAM
    [ -n "$2" ] || return 0
    { ldd "$2" 2>/dev/null || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        mkdir -p "$1$(dirname "$library")"
        [ -e "$1$library" ] || cp -L "$library" "$1$library"
    done
}
format_busybox() { # in place of format_disk's and fill_first_boot's Debian
    echo "$WORKER_NAME" >etc/hostname
    printf '127.0.0.1 localhost\n%s %s\n' "$WORKER_ADDRESS" "$WORKER_NAME" >etc/hosts
    tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
    cat >etc/ssh/sshd_config <<'CONFIG'
# A worker's sshd without PAM (launch_workers.sh). The agent adds sshd_config.d/00-orion.conf.
Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100:30:200
Subsystem sftp internal-sftp
CONFIG
    printf '%s\n' ::respawn:/run/orion-worker-sshd ::respawn:/run/orion-worker-agent >etc/inittab
}
boot_busybox() { # BusyBox's init starts these; descriptors 3 and 4 are the logs on the machine
    cat >run/orion-worker-sshd <<'SCRIPT'
#!/bin/sh
while [ -e /run/no-sshd-restart ]; do sleep 0.1; done
exec /usr/sbin/sshd -D -e 2>&4 3>&- 4>&-
SCRIPT
    cat >run/orion-worker-agent <<'SCRIPT'
#!/bin/sh
[ -x /usr/local/bin/orion-agent ] && [ -e /etc/orion/agent.env ] || exec sleep 3600
. /etc/orion/agent.env
[ ! -e /etc/orion/join-token ] || set -- --join-token-file /etc/orion/join-token
exec /usr/local/bin/orion-agent run "$@" >&3 2>&3 3>&- 4>&-
SCRIPT
    chmod 755 run/orion-worker-sshd run/orion-worker-agent
}

# --- systemd -------------------------------------------------------------------------------------------

first_boot_systemd() {
    local unit
    mkdir -p etc/systemd/system/{multi-user.target.wants,ssh.service.d,orion-agent.service.d} usr/local/sbin var/log/journal
    ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target
    ln -s /lib/systemd/system/ssh.service etc/systemd/system/multi-user.target.wants/
    ln -s /lib/systemd/system/ssh.service etc/systemd/system/sshd.service
    # what belongs to the machine's devices, disks, packages and consoles
    for unit in getty.target console-getty.service systemd-udevd.service systemd-udev-trigger.service \
        systemd-udevd-{control,kernel}.socket systemd-timesyncd.service systemd-networkd.service systemd-resolved.service \
        systemd-modules-load.service systemd-sysctl.service systemd-remount-fs.service systemd-random-seed.service \
        systemd-update-utmp.service systemd-firstboot.service dev-hugepages.mount dev-mqueue.mount \
        sys-kernel-{config,debug,tracing}.mount proc-sys-fs-binfmt_misc.automount tmp.mount kmod-static-nodes.service \
        e2scrub_reap.service {apt-daily,apt-daily-upgrade,dpkg-db-backup,e2scrub_all,fstrim,man-db}.timer; do
        ln -sf /dev/null "etc/systemd/system/$unit"
    done
    : >etc/fstab
    printf '%s\n' '[Unit]' 'ConditionPathExists=!/run/no-sshd-restart' '[Service]' 'Restart=always' 'RestartSec=100ms' \
        >etc/systemd/system/ssh.service.d/worker.conf
    if [ -n "$AGENT" ]; then
        cp "$WORKER_SCRIPTS/../deploy/systemd/orion-agent.service" etc/systemd/system/
        ln -s /usr/local/bin/orion-agent usr/local/sbin/orion-agent
        ln -s ../orion-agent.service etc/systemd/system/multi-user.target.wants/
        printf '%s\n' '[Service]' 'StandardOutput=append:/run/orion-worker-agent.log' \
            'StandardError=append:/run/orion-worker-agent.log' >etc/systemd/system/orion-agent.service.d/worker.conf
    fi
}
boot_systemd() {
    : >run/orion-worker-agent.log
    mount --bind "$WORKER_DIR/agent.log" run/orion-worker-agent.log
    # systemd reads settings, not a shell's commands
    [ ! -e etc/orion/agent.env ] || sed -i 's/^export //' etc/orion/agent.env
    [ ! -e etc/orion/join-token ] || grep -q '^ORION_JOIN_TOKEN_FILE=' etc/orion/agent.env ||
        echo 'ORION_JOIN_TOKEN_FILE=/etc/orion/join-token' >>etc/orion/agent.env
    # systemd would mount every hierarchy that /proc/cgroups names, and those begin at the machine's own root
    head -n 1 /proc/cgroups >run/cgroups
    mount --bind run/cgroups proc/cgroups
    mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
}

# --- foreign -------------------------------------------------------------------------------------------

# A user of a directory (as of LDAP, by libnss-extrausers), a local account with an odd name, subordinate ranges with
# the processes and files of a container, all with ids of the range from which Orion takes its own.
first_boot_foreign() {
    sed -i -E 's/^(passwd|group|shadow):.*/& extrausers/' etc/nsswitch.conf
    mkdir -p var/lib/extrausers var/lib/containers/web srv/data
    echo 'lena:x:300017:300500:Lena of the directory:/home/lena:/bin/bash' >var/lib/extrausers/passwd
    echo 'research:x:300500:lena' >var/lib/extrausers/group
    (umask 077 && echo 'lena:*:19000:0:99999:7:::' >var/lib/extrausers/shadow)
    echo 'Build.Bot:x:250001:250001::/var/lib/build:/usr/sbin/nologin' >>etc/passwd
    echo 'Build.Bot:x:250001:' >>etc/group
    echo 'Build.Bot:*:19000::::::' >>etc/shadow
    printf '%s\n' root:1000000:1000000000 lena:231072:65536 | tee etc/subuid >etc/subgid
    install -d -m 700 -o 300017 -g 300500 home/lena
    install -d -m 755 -o 250001 -g 250001 var/lib/build
    chmod 1777 srv/data
    echo 'years of work' | tee home/lena/thesis var/tmp/lena-results srv/data/lena-table >/dev/null
    echo mail >var/mail/lena
    chown 300017:300500 home/lena/thesis var/tmp/lena-results srv/data/lena-table var/mail/lena
    echo 'a container writes this' | tee var/lib/containers/web/index var/tmp/container-cache >/dev/null
    chown 1000017:1000017 var/lib/containers/web/index var/tmp/container-cache
    echo built >var/lib/build/artifact
    chown 250001:250001 var/lib/build/artifact
    cat >etc/rc.local <<'SCRIPT'
#!/bin/sh
# What runs here besides Orion: init.sh starts it at each boot.
echo scratch >/tmp/lena-scratch; chown 300017:300500 /tmp/lena-scratch
echo shared >/dev/shm/container-shared; chown 1000017:1000017 /dev/shm/container-shared
as() { setsid setpriv --reuid "$1" --regid "$1" --clear-groups sleep "$2" </dev/null >/dev/null 2>&1 & }
as 300017 31000017
as 1000017 11000017
as 250001 25000001
SCRIPT
    chmod 755 etc/rc.local
}
boot_foreign() { :; }

# --- debian --------------------------------------------------------------------------------------------

first_boot_debian() { :; }
boot_debian() { :; }
