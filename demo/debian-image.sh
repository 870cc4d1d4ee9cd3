#!/bin/sh
# Writes the files of a small Debian as a tar archive to standard output, for `docker import`: what the packages below
# have installed on this machine, without manuals and translations. For where no registry can be reached.
set -eu
export LC_ALL=C

# bash, coreutils and perl with their libraries; busybox-static brings a web server.
packages='base-files bash busybox-static coreutils dash libc6 libcrypt1 libacl1 libattr1 libgmp10
    libselinux1 libpcre2-8-0 libtinfo6 libssl3 perl-base perl-modules-5.36 sed grep gzip tar findutils debianutils'

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$root"
# Packages name /bin/sh also where /bin is a link into /usr.
for directory in bin sbin lib lib64; do
    if [ -L "/$directory" ]; then
        mkdir -p "$root/usr/$directory"
        ln -s "usr/$directory" "$root/$directory"
    fi
done
# shellcheck disable=SC2086
dpkg-query --listfiles $packages 2>/dev/null | grep '^/.' | sort -u |
    grep -vE '^/(usr/share/(doc|info|locale|man|lintian)|s?bin$|lib(32|64|x32)?$)(/|$)?' |
    tar -C / --create --no-recursion --ignore-failed-read --files-from - 2>/dev/null |
    tar -C "$root" --extract --keep-directory-symlink
mkdir -p "$root/tmp" "$root/srv" "$root/etc"
chmod 1777 "$root/tmp"
cp /usr/share/base-passwd/passwd.master "$root/etc/passwd"
cp /usr/share/base-passwd/group.master "$root/etc/group"
tar -C "$root" --create .
