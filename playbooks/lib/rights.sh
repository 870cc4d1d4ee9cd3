# A name gives no rights, and takes none: what this machine already grants or denies to a name is not for a tenant who
# happens to have it.

# check_rights: refuses (72) when the machine gives rights or ids to the name $user, or has rules for its login, before there
# is such an account.
check_rights() {
  named=$(list_rights)
  if [ -n "$named" ]; then refuse 72 "the name $user has rights or rules of its own on this node: $named"; fi
}

# list_rights: prints where the name stands, empty if nowhere. Group members and subordinate ids by name first; then
# the word in sudoers, doas and polkit files; then the lists of who may use cron and at; then what sshd and PAM say of the
# login of single users, by name or by a pattern that does not take the probe account (lib/way_in.sh) as well.
list_rights() {
  set -- /etc/group
  for file in /etc/gshadow /etc/subuid /etc/subgid /etc/cron.allow /etc/at.allow /etc/doas.conf /etc/doas.d/* \
    /etc/polkit-1/rules.d/* /usr/share/polkit-1/rules.d/* /etc/polkit-1/localauthority/*/* \
    /etc/polkit-1/localauthority.conf.d/* /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* /etc/security/access.conf \
    $(sudoers_files); do
    if [ -f "$file" ] && [ -r "$file" ]; then set -- "$@" "$file"; fi
  done
  awk -v user="$user" '
    function has(text, word,    at, before, after) {
      while ((at = index(text, word)) > 0) {
        before = at > 1 ? substr(text, at - 1, 1) : " "
        after = substr(text, at + length(word), 1)
        if (before !~ /[A-Za-z0-9_.\/-]/ && after !~ /[A-Za-z0-9_.\/-]/) return 1
        text = substr(text, at + length(word))
      }
      return 0
    }
    function takes(pattern, name) {
      if (pattern !~ /^[A-Za-z0-9_.*?-]+$/) return 0
      gsub(/[.]/, "[.]", pattern)
      gsub(/\*/, ".*", pattern)
      gsub(/\?/, ".", pattern)
      return name ~ "^" pattern "$"
    }
    function singles_out(line,    count, words, at, word) {
      count = split(line, words, /[ \t,=:"]+/)
      for (at = 1; at <= count; at++) {
        word = words[at]
        sub(/^!/, "", word)
        sub(/@.*/, "", word)
        if (word == user || (word ~ /[*?]/ && takes(word, user) && !takes(word, "orion-probe"))) return 1
      }
      return 0
    }
    function found(what) { print what " (" FILENAME ")"; exit }
    FILENAME ~ /\/(group|gshadow)$/ {
      split($0, field, ":")
      if (field[1] != "orion-lease" && field[1] != user && index("," field[4] ",", "," user ",")) found("it is a member of " field[1])
      next
    }
    FILENAME ~ /\/sub[ug]id$/ { split($0, field, ":"); if (field[1] == user) found("it has subordinate ids"); next }
    FILENAME ~ /\/(cron|at)\.allow$/ { if ($1 == user) found("it is listed"); next }
    FILENAME ~ /polkit/ {
      if (index($0, "\"" user "\"") || index($0, "'\''" user "'\''") || has($0, "unix-user:" user) || has($0, "unix-group:" user)) found("polkit names it")
      next
    }
    FILENAME ~ /\/sshd_config/ {
      line = tolower($0)
      if (line ~ /^[ \t]*(match[ \t].*user|denyusers|allowusers)[ \t="]/ && singles_out($0)) found("sshd has rules for it")
      next
    }
    FILENAME ~ /access\.conf$/ { if (/^[ \t]*[-+]/ && singles_out($0)) found("PAM has rules for its login"); next }
    /^[ \t]*#/ || /^[ \t]*Defaults/ { next }
    has($0, user) { found("it is named") }' "$@" 2>/dev/null || :
}

# sudoers_files: prints them, with those that they include.
sudoers_files() {
  for file in /etc/sudoers /usr/local/etc/sudoers /etc/sudoers.d/*; do
    if [ ! -f "$file" ]; then continue; fi
    printf '%s\n' "$file"
    awk '/^[#@]include(dir)?[ \t]/ { print $2 }' "$file" | while read -r included; do
      if [ -d "$included" ]; then
        for file in "$included"/*; do printf '%s\n' "$file"; done
      else
        printf '%s\n' "$included"
      fi
    done
  done | sort -u
}

# check_sudo: asks sudo itself, which knows aliases, netgroups and directories, and rules for everybody. Refuses (72),
# and removes the account if it was just made. For an account whose door is still shut.
check_sudo() {
  if ! command -v sudo >/dev/null; then return 0; fi
  may=$(timeout -k 1 5 sudo -n -l -U "$user" 2>/dev/null 3>&- 9>&-) || :
  case $may in *'may run the following'*) ;; *) return 0 ;; esac
  if [ -z "$was_there" ]; then
    read_account
    remove_account || :
    if [ "$home_is_ours" = yes ]; then rm -rf "/home/$user"; fi
    rm -f "/var/lib/orion/leases/$uid"
  fi
  refuse 72 "sudo on this node lets $user run commands"
}
