#!/bin/sh
# alpine-root.sh DIR: makes the tree of the stand-in for Alpine.
set -eu
root=$1
mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/etc/ssh" "$root/dev" "$root/proc" \
    "$root/sys" "$root/run" "$root/var/lib" "$root/var/log" "$root/var/empty" "$root/home" "$root/usr/local/sbin"
mkdir -m 1777 "$root/tmp" "$root/var/tmp"
mkdir -m 700 "$root/root"
cp /busybox "$root/bin/busybox"
for tool in $(/busybox --list-full); do
    mkdir -p "$root/$(dirname "$tool")"
    [ -e "$root/$tool" ] || ln -s /bin/busybox "$root/$tool"
done
# OpenSSH with the libraries that it names, and no other
for program in /usr/sbin/sshd /usr/bin/ssh /usr/bin/ssh-keygen /usr/lib/openssh/sftp-server; do
    mkdir -p "$root$(dirname "$program")"
    cp "$program" "$root$program"
    ldd "$program" | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -nL "$library" "$root$library"
    done
done
cat >"$root/etc/passwd" <<'LINES'
root:x:0:0:root:/root:/bin/sh
sshd:x:22:22:sshd:/var/empty:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
LINES
printf 'root:*::0:::::\nsshd:!::0:::::\nnobody:!::0:::::\n' >"$root/etc/shadow"
printf 'root:x:0:root\nshadow:x:42:\nsshd:x:22:\ntty:x:5:\nnogroup:x:65533:\nnobody:x:65534:\n' >"$root/etc/group"
printf 'root:::root\n' >"$root/etc/gshadow"
chmod 640 "$root/etc/shadow" "$root/etc/gshadow"
printf '/bin/sh\n/bin/ash\n' >"$root/etc/shells"
cat >"$root/etc/ssh/sshd_config" <<'LINES'
Include /etc/ssh/sshd_config.d/*.conf
Subsystem sftp /usr/lib/openssh/sftp-server
LINES
mkdir "$root/etc/ssh/sshd_config.d"
# What the Dockerfile asks of apk is in this tree already, or the build ends here.
cat >"$root/sbin/apk" <<'SCRIPT'
#!/bin/sh
set -eu
[ "$1" = add ] || exit 1
shift
for word in "$@"; do
    case $word in
        --*) ;;
        openssh-server) [ -x /usr/sbin/sshd ] ;;
        openssh-client-default) [ -x /usr/bin/ssh ] ;;
        openssh-keygen) [ -x /usr/bin/ssh-keygen ] ;;
        *) echo "apk: no $word in this stand-in for Alpine" >&2 && exit 1 ;;
    esac
done
SCRIPT
chmod 755 "$root/sbin/apk"
