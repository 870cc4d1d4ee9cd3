#!/bin/sh
# busybox.sh OUTPUT: builds BusyBox from Debian's own source package, once, as Alpine configures it.
# Debian's busybox-static has neither adduser nor chpasswd nor flock, so it is no BusyBox userland.
# Needs root, apt with network, gcc, make, bzip2, dpkg-dev. Leaves /etc/apt alone: the source lists are in
# a directory of its own, derived from the configured mirrors.
set -eu
output=$1
work=$output.build
mkdir -p "${output%/*}"
exec 9>"$output.lock"
flock 9
if [ -x "$output" ]; then exit 0; fi
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
cd "$work"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt-get indextargets --format "\$(ORIGIN)|deb-src [signed-by=$keyring] \$(SITE) \$(RELEASE) \$(COMPONENT)" \
  'Created-By: Packages' 'Component: main' | sed -n 's/^Debian|//p' | sort -u >sources.list
if [ ! -s sources.list ]; then
  echo "no Debian mirror is configured" >&2
  exit 1
fi
cat >apt.conf <<EOF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
EOF
export APT_CONFIG="$work/apt.conf"
apt-get -qq update
apt-get -qq source --download-only busybox
dpkg-source --no-check -x busybox_*.dsc source >/dev/null
cd source
make -s defconfig >/dev/null
# LAST_ID as in Alpine; adduser refuses numbers above it.
sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_PAM=y/# CONFIG_PAM is not set/
  s/^CONFIG_TC=y/# CONFIG_TC is not set/; s/^CONFIG_LAST_ID=.*/CONFIG_LAST_ID=256000/' .config
yes '' | make -s oldconfig >/dev/null
make -s -j"$(nproc)" busybox >make.log 2>&1 || {
  tail -n 20 make.log >&2
  exit 1
}
cp busybox "$output.new"
mv "$output.new" "$output"
cd /
rm -rf "$work"
