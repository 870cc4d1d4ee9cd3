# The way in: a probe account of the group orion-lease logs in at this node's own sshd, by password and by key. Run by
# probe_login.yml and by orion-agent. Needs lib/probe_account.sh, the function `report`, and /run/orion/lock as file
# descriptor 9. What is found is reported as `way_in open`, or `way_in shut` with `way_in_reason`; nothing is reported of
# `way_in` but `way_in_not_known` with a reason when the node was busy.

# Files on which the way in depends, one a line; those that are not there yet, too.
way_in_files() {
  printf '%s\n' /etc/nologin /run/nologin /var/run/nologin /etc/login.defs /etc/default/useradd /etc/shells \
    /etc/environment /etc/hosts.deny /etc/hosts.allow /run/sshd.pid /var/run/sshd.pid /root/.bashrc /root/.profile \
    /root/.bash_profile /root/.bash_login /root/.zshenv /etc/bash.bashrc /etc/zsh/zshenv \
    /etc/pam.d /etc/security "${sshd_config%/*}" /bin/bash /bin/sh "$(command -v sshd || :)"
  for file in /etc/pam.d/* /etc/security/*; do
    if [ -f "$file" ]; then printf '%s\n' "$file"; fi
  done
  sshd_files "$sshd_config" 0
}

# sshd_files FILE DEPTH: the file and all that it includes.
sshd_files() {
  printf '%s\n' "$1"
  if [ "$2" -gt 4 ] || [ ! -r "$1" ]; then return 0; fi
  for included in $(sed -n 's/^[[:space:]]*[Ii][Nn][Cc][Ll][Uu][Dd][Ee][[:space:]=]\{1,\}//p' "$1" | tr -d '"'); do
    case $included in /*) ;; *) included="${sshd_config%/*}/$included" ;; esac
    printf '%s\n' "${included%/*}"
    for found in $included; do
      if [ -f "$found" ] && [ "$found" != "$1" ]; then (sshd_files "$found" "$(($2 + 1))"); fi
    done
  done
}

# Directories above the homes: what is in them is not looked at, only whose they are, their modes and what is mounted.
way_in_directories() {
  printf '%s\n' / /home
}

# Adds to the reason.
because() {
  if [ -n "$why" ]; then why="$why; $1"; else why=$1; fi
}

# The value (or values, one a line) of a setting of sshd for the probe account.
setting() {
  printf '%s\n' "$effective" | sed -n "s/^$1 //p"
}

# matches NAME PATTERN...: whether one of sshd's patterns takes the name; what stands behind @ is not looked at.
matches() {
  matched_name=$1
  shift
  set -f
  for pattern in $*; do
    case $matched_name in ${pattern%%@*}) set +f; return 0 ;; esac
  done
  set +f
  return 1
}

# Makes the account, whose key lies in /run/orion/probe.
make_probe_account() {
  setsid /bin/sh -c "$detached_script
guard_probe $$" </dev/null >/dev/null 2>&1 3>&- 8>&- 9>&- &
  if [ -x /bin/bash ]; then shell=/bin/bash; fi
  uid=59999
  while grep -q "^[^:]*:[^:]*:$uid:" /etc/passwd /etc/group ||
    { command -v getent >/dev/null && getent passwd "$uid" >/dev/null; }; do
    uid=$((uid - 1))
  done
  made=$(
    {
      if ! grep -q '^orion-lease:' /etc/group; then
        if command -v groupadd >/dev/null; then groupadd -r -f orion-lease; else addgroup -S orion-lease; fi
      fi
      scheme=sha512
      if command -v useradd >/dev/null; then
        scheme=SHA512
        useradd -U -K "GID_MIN=$uid" -K "GID_MAX=$uid" -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 -K UMASK=077 \
          -l -m -d "/home/$probe_user" -u "$uid" -s "$shell" -G orion-lease "$probe_user"
      else
        addgroup -g "$uid" "$probe_user" && adduser -D -h "/home/$probe_user" -u "$uid" -G "$probe_user" -s "$shell" \
          -g '' "$probe_user" && addgroup "$probe_user" orion-lease
      fi &&
        # As a lease account: no expiry, no ageing.
        if command -v chage >/dev/null; then
          chage -d "$(($(date +%s) / 86400))" -m 0 -M 99999 -I -1 -E -1 "$probe_user"
        fi &&
        printf '%s:%s\n' "$probe_user" "$password" | chpasswd -c "$scheme" &&
        (
          umask 077
          mkdir -p "/home/$probe_user/.ssh" &&
            cat /run/orion/probe/key.pub >"/home/$probe_user/.ssh/authorized_keys" &&
            chown -R "$uid:$uid" "/home/$probe_user/.ssh"
        )
    } 2>&1 3>&- 8>&- 9>&-
  ) || because "the probe account cannot be made: $(printf '%s' "$made" | tr '\n' ' ')"
}

# log_in METHOD ADDRESS: a real login; what ssh says against it goes to /run/orion/probe/METHOD.err.
log_in() (
  case $1 in
  password) set -- "$@" -o PubkeyAuthentication=no -o PreferredAuthentications=password,keyboard-interactive ;;
  key) set -- "$@" -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o PreferredAuthentications=publickey -o BatchMode=yes -i /run/orion/probe/key -o IdentitiesOnly=yes ;;
  esac
  method=$1 host=$2
  shift 2
  cd /run/orion/probe
  # ssh asks `cat PROMPT`: the answer lies in files that are called like the prompts. A script of our own could not
  # be run where /run must not hold programs.
  SSH_ASKPASS=$(command -v cat) SSH_ASKPASS_REQUIRE=force DISPLAY=none:0 HOME=/root \
    setsid timeout -k 1 12 ssh -F none -p "$port" -l "$probe_user" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o GlobalKnownHostsFile=/dev/null -o NumberOfPasswordPrompts=1 -o ConnectTimeout=5 -o LogLevel=INFO -o ControlMaster=no \
    "$@" "$host" 'echo orion-$((6 * 7))' </dev/null >"$method.out" 2>"$method.err" 3>&- 8>&- 9>&- || :
  grep -q '^orion-42' "$method.out"
)

# What ssh said against a login, without the noise.
complaint() {
  grep -v -e '^Warning: Permanently added' -e '^$' "/run/orion/probe/$1.err" | tail -n 2 | tr '\r\n' '  '
}

# Both logins at ADDRESS; sets password_in and key_in.
try_both() {
  log_in key "$1" &
  key_job=$!
  password_in=no key_in=no
  if log_in password "$1"; then password_in=yes; fi
  if wait "$key_job"; then key_in=yes; fi
}

# What shuts the way in, from what sshd makes of its configuration for the account.
name_obstacles() {
  for file in /etc/nologin /run/nologin /var/run/nologin; do
    if [ -e "$file" ]; then
      because "$file is there, so only root may log in: $(head -n 1 "$file" | cut -c 1-120)"
      break
    fi
  done
  list=$(setting allowusers)
  if [ -n "$list" ] && ! matches "$probe_user" "$list"; then because "AllowUsers of sshd ($(echo $list)) does not take lease accounts"; fi
  list=$(setting denyusers)
  if [ -n "$list" ] && matches "$probe_user" "$list"; then because "DenyUsers of sshd ($(echo $list)) takes lease accounts"; fi
  list=$(setting allowgroups)
  if [ -n "$list" ] && ! matches orion-lease "$list" && ! matches "$probe_user" "$list"; then
    because "AllowGroups of sshd ($(echo $list)) does not name orion-lease"
  fi
  list=$(setting denygroups)
  if [ -n "$list" ] && { matches orion-lease "$list" || matches "$probe_user" "$list"; }; then because "DenyGroups of sshd ($(echo $list)) names orion-lease"; fi
  value=$(setting authenticationmethods)
  case $value in '' | any) ;; *) because "AuthenticationMethods of sshd is $value: neither a password nor a key alone is enough" ;; esac
  value=$(setting forcecommand)
  case $value in '' | none) ;; *) because "ForceCommand of sshd is $value" ;; esac
  value=$(setting chrootdirectory)
  case $value in '' | none) ;; *) because "ChrootDirectory of sshd is $value" ;; esac
  if [ "$password_in" = no ] && [ "$(setting passwordauthentication)" = no ]; then
    if [ "$(setting kbdinteractiveauthentication)" != yes ] || [ "$(setting usepam)" != yes ]; then
      because "PasswordAuthentication of sshd is no for lease accounts"
    fi
  fi
  if [ "$key_in" = no ]; then
    if [ "$(setting pubkeyauthentication)" = no ]; then because "PubkeyAuthentication of sshd is no for lease accounts"; fi
    value=$(setting authorizedkeysfile)
    case " $value " in
    *' .ssh/authorized_keys '* | *' %h/.ssh/authorized_keys '* | *' /home/%u/.ssh/authorized_keys '*) ;;
    *) because "AuthorizedKeysFile of sshd is $value: keys are not read from homes" ;;
    esac
    value=$(setting pubkeyacceptedalgorithms)
    case ",$value," in *,ssh-ed25519,* | ,,) ;; *) because "PubkeyAcceptedAlgorithms of sshd ($value) has no ssh-ed25519" ;; esac
  fi
  if [ "$(setting usepam)" = yes ]; then
    if grep -qs '^[^#]*pam_shells' /etc/pam.d/sshd /etc/pam.d/common-* /etc/pam.d/system-auth /etc/pam.d/password-auth &&
      ! grep -qsx "$shell" /etc/shells; then
      because "PAM takes only shells of /etc/shells, which has no $shell"
    fi
    if grep -qs '^[^#]*pam_access' /etc/pam.d/sshd /etc/pam.d/common-* /etc/pam.d/system-auth /etc/pam.d/password-auth &&
      grep -qs '^[[:space:]]*-' /etc/security/access.conf; then
      because "PAM's pam_access has rules in /etc/security/access.conf: $(grep -m 1 '^[[:space:]]*-' /etc/security/access.conf)"
    fi
  fi
}

# Names what sshd has against the first account with a lease here that has other rules than the probe's.
check_lease_accounts() {
  for file in /var/lib/orion/leases/[0-9]*; do
    name=$(sed -n 's/^user=//p' "$file" 2>/dev/null) || continue
    if [ -z "$name" ]; then continue; fi
    theirs=$(settings_for "$name" "$1") || continue
    list=$(printf '%s\n' "$theirs" | sed -n 's/^denyusers //p')
    if [ -n "$list" ] && matches "$name" "$list"; then
      because "DenyUsers of sshd ($(echo $list)) takes an account that has a lease here"
      return 0
    fi
    for key in passwordauthentication kbdinteractiveauthentication pubkeyauthentication authenticationmethods \
      authorizedkeysfile forcecommand chrootdirectory pubkeyacceptedalgorithms maxsessions allowusers allowgroups denygroups; do
      value=$(printf '%s\n' "$theirs" | sed -n "s/^$key //p")
      if [ -n "$value" ] && [ "$value" != "$(setting "$key")" ]; then
        because "sshd has a rule for an account that has a lease here: $key $(echo $value)"
        return 0
      fi
    done
  done
}

# settings_for NAME ADDRESS: what sshd makes of its configuration for a login.
settings_for() {
  "$sshd" -T -f "$sshd_config" -C "user=$1,host=$2,addr=$2,laddr=$2,lport=$port" 2>/run/orion/probe/sshd 3>&- 9>&-
}

# Do root's start-up files leave standard input to the command? sshd's sessions are told to bash by SSH_CLIENT.
check_root_shell() {
  login_shell=/bin/sh
  while IFS=: read -r name x x x x x value; do
    if [ "$name" = root ] && [ -n "$value" ]; then login_shell=$value; fi
  done </etc/passwd
  heard=$(printf 'orion-42\n' | env -i HOME=/root USER=root PATH="$PATH" SSH_CLIENT='127.0.0.1 1 22' SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22' \
    timeout -k 1 5 "$login_shell" -c 'exec cat' 2>/dev/null 3>&- 8>&- 9>&-) || :
  case $heard in
  *orion-42*) ;;
  *) because "root's start-up files (.bashrc, /etc/bash.bashrc …) read standard input or end the shell: commands over SSH do not work" ;;
  esac
}

# prove_way_in ADDRESS PORT: the whole probe. ADDRESS: where sshd is reached from outside, if that is this machine's own.
prove_way_in() {
  port=$2
  sshd_config=${sshd_config:-/etc/ssh/sshd_config}
  why= busy= effective= made= shell=/bin/sh password_in=no key_in=no
  sshd=$(command -v sshd || :)
  if [ -z "$sshd" ]; then because 'there is no sshd'; fi
  for tool in ssh ssh-keygen; do
    if ! command -v "$tool" >/dev/null; then because "there is no $tool: the way in cannot be proven (install openssh-client)"; fi
  done
  check_root_shell
  if [ -z "$why" ]; then probe_as_account "$1"; fi
  if [ -n "$busy" ]; then
    report way_in_not_known "$busy"
  elif [ -z "$why" ]; then
    report way_in open
  else
    report way_in shut
    report way_in_reason "$(printf '%s' "$why" | tr '\r\n\t' '   ')"
  fi
}

probe_as_account() {
  (umask 077; mkdir -p /run/orion)
  exec 8>>/run/orion/probe.lock
  tries=0
  until flock -n 8; do
    tries=$((tries + 1))
    if [ "$tries" -gt 250 ]; then busy='another probe does not end'; return 0; fi
    sleep 0.1 2>/dev/null || sleep 1
  done
  if ! take_node_lock; then
    busy='another run holds the lock of this node'
    return 0
  fi
  if ! remove_probe_account; then
    because "an older account $probe_user could not be removed"
    flock -u 9
    return 0
  fi
  trap 'remove_probe_account || :' EXIT
  password=$(tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40)
  if ! made=$({ prepare_probe "$1"; } 2>&1 3>&- 8>&- 9>&-); then
    because "the probe cannot be prepared: $(printf '%s' "$made" | tr '\n' ' ')"
  else
    make_probe_account
  fi
  flock -u 9
  if [ -z "$why" ]; then
    effective=$(settings_for "$probe_user" "$1") ||
      because "sshd's configuration is broken: $(tr '\n' ' ' </run/orion/probe/sshd)"
  fi
  if [ -z "$why" ]; then
    where=$1
    try_both "$where"
    tries=0
    while [ "$password_in$key_in" = nono ] && grep -q 'Connection refused' /run/orion/probe/key.err && [ "$tries" -lt 4 ]; do
      # sshd may be reading its configuration anew; or that address is not this machine's own.
      tries=$((tries + 1)) where=127.0.0.1
      sleep 0.4 2>/dev/null || sleep 1
      try_both "$where"
    done
    if [ "$password_in$key_in" = nono ] && grep -q -e 'port [0-9]*: ' /run/orion/probe/key.err && [ "$where" != 127.0.0.1 ]; then
      # That address is not this machine's own: a translated one.
      where=127.0.0.1
      try_both "$where"
    fi
    if [ "$password_in$key_in" != yesyes ]; then
      name_obstacles
      # Nothing is known to be in the way: once more before it is said.
      if [ -z "$why" ]; then try_both "$where"; fi
      if [ -z "$why" ] && [ "$password_in" = no ]; then because "the login by password fails: $(complaint password)"; fi
      if [ -z "$why" ] && [ "$key_in" = no ]; then because "the login by key fails: $(complaint key)"; fi
    else
      list=$(setting allowusers)
      if [ -n "$list" ] && ! matches 'any-user' "$list"; then because "AllowUsers of sshd ($(echo $list)) does not take every lease account"; fi
      check_lease_accounts "$1"
    fi
  fi
  # Where the lock cannot be had now, guard_probe removes the account as soon as it can.
  if take_node_lock; then
    if ! remove_probe_account; then because "the account $probe_user could not be removed"; fi
    flock -u 9
  fi
  trap - EXIT
  exec 8>&-
}

# The key, and the password under the names of the prompts for it.
prepare_probe() (
  umask 077
  mkdir -p /run/orion/probe && cd /run/orion/probe || return
  printf '%s\n' "$$" >owner
  ssh-keygen -q -t ed25519 -N '' -C "$probe_user" -f key </dev/null || return
  for host in "$1" 127.0.0.1; do
    for prompt in "$probe_user@$host's password: " "($probe_user@$host) Password: " 'Password: '; do
      printf '%s\n' "$password" >"$prompt" || return
    done
  done
)
