# The firewall of containers: what those of leases reach, and who reaches them. Orion's networks have bridges called
# orion-NUMBER. The rules stand in chains of Orion's own (ORION-...), which begin INPUT and DOCKER-USER, or FORWARD.
# /var/lib/orion/firewall has them, and /var/lib/orion/firewall.sh puts them in place where they are not: the deadline process
# runs it, too, after a boot, a restart of the engine, and a flush by somebody else.

# firewall_script: what puts the rules in place, all at once, where they are not, or when they changed (with an argument).
# Under the lock.
firewall_script() {
  cat <<"SCRIPT"
[ -s /var/lib/orion/firewall ] || exit 0
edits=$(iptables -w 10 -S | awk '
  FILENAME != "-" { rules += ($1 == "-A"); next }
  $1 == "-A" && $2 ~ /^ORION-/ { count++; next }
  $1 == "-A" && !($2 in first) { first[$2] = $0 }
  $1 == "-A" && $3 == "-j" && $4 ~ /^ORION-/ { sub(/^-A/, "-D"); edits = edits $0 "\n" }
  END {
    # What flushes FORWARD leaves DOCKER-USER without a jump to it.
    forward = (first["FORWARD"] == "-A FORWARD -j DOCKER-USER") ? "DOCKER-USER" : "FORWARD"
    printf "%s-I INPUT 1 -j ORION-INPUT\n-I %s 1 -j ORION-FORWARD\n", edits, forward
    exit !(count == rules && first["INPUT"] == "-A INPUT -j ORION-INPUT" && first[forward] == "-A " forward " -j ORION-FORWARD")
  }' /var/lib/orion/firewall -) && [ -z "${1:-}" ] && exit 0
{ cat /var/lib/orion/firewall; printf "%s\nCOMMIT\n" "$edits"; } | iptables-restore --noflush -w 10
SCRIPT
}

# close_networks DENIED PROXIES PORTS PUBLIC_PORTS: lists with commas. Fails, with $problem, where the rules cannot be put in
# place. Under the lock.
close_networks() {
  problem=
  if ! command -v iptables >/dev/null || ! command -v iptables-restore >/dev/null; then
    problem="this node has no iptables, without which the network of a container cannot be closed"
    return 1
  fi
  if ! no_ipv6; then
    problem="IPv6 cannot be turned off on the networks of containers"
    return 1
  fi
  changed=
  if ! put_changed firewall.sh "$(firewall_script)" || ! put_changed firewall "$(firewall_rules "$@")"; then
    problem="there is no room in /var/lib/orion for the firewall's rules, or it is read-only"
    return 1
  fi
  if ! said=$(sh /var/lib/orion/firewall.sh $changed 2>&1 3>&- 9>&-); then
    # They are tried whole the next time.
    rm -f /var/lib/orion/firewall
    problem="the firewall's rules are not taken: $(printf '%s' "$said" | tr -c '[:print:]' ' ' | cut -c 1-300)"
    return 1
  fi
}

# put_changed NAME TEXT: a file of /var/lib/orion, whole or as it was; sets $changed where it was another.
put_changed() {
  if [ "$2" = "$(cat "/var/lib/orion/$1" 2>/dev/null)" ]; then return 0; fi
  changed=changed
  printf '%s\n' "$2" >"/var/lib/orion/.$1.new" && [ "$(cat "/var/lib/orion/.$1.new")" = "$2" ] &&
    mv -f "/var/lib/orion/.$1.new" "/var/lib/orion/$1"
}

# no_ipv6: a container that sends what packets it likes could reach the node by the IPv6 address of its bridge.
no_ipv6() {
  for ipv6 in /proc/sys/net/ipv6/conf/orion-[0-9]*/disable_ipv6; do
    off=1
    # A shell that reads byte by byte gets one byte of such a file, and no end of a line.
    read -r off 2>/dev/null <"$ipv6" || :
    if [ "$off" = 1 ]; then continue; fi
    echo 1 2>/dev/null >"$ipv6" || return 1
  done
}

# remember_controller: keeps the address from which Orion came by SSH, until the machine's next start.
remember_controller() {
  came_from=${SSH_CONNECTION:-}
  came_from=${came_from%% *} came_from=${came_from#::ffff:}
  case $came_from in *[!0-9.]* | '') return 0 ;; esac
  while read -r known; do
    if [ "$known" = "$came_from" ]; then return 0; fi
  done 2>/dev/null </run/orion/controllers || :
  printf '%s\n' "$came_from" >>/run/orion/controllers || :
}

# firewall_rules DENIED PROXIES PORTS PUBLIC_PORTS: what iptables-restore reads, without the COMMIT. One program writes them
# all: every start of a container waits for it.
firewall_rules() {
  remember_controller
  awk -v denied="$1" -v proxies="$2" -v ports="$3" -v public_ports="$4" '
    function add(rule) { print "-A ORION-" rule }
    function show_ports() { add("INPUT ! -i lo -p tcp -m multiport --dports " list " -j ORION-INGRESS"); list = ""; listed = 0 }
    BEGIN {
      reject = " -j REJECT --reject-with icmp-admin-prohibited"
      # Answers only: a connection that began while the rules were not there ends with its next packet, if it may not be.
      known = " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN"
      print "*filter"
      chains = split("FORWARD INPUT EGRESS INGRESS", chain, " ")
      for (i = 1; i <= chains; i++) print ":ORION-" chain[i] " - [0:0]"
      add("FORWARD" known)
      # Two containers of one lease, where the kernel shows iptables what a bridge passes on.
      while ((getline line < "/proc/net/dev") > 0) {
        sub(/:.*/, "", line)
        gsub(/ /, "", line)
        if (line ~ /^orion-[0-9]+$/) add("FORWARD -i " line " -o " line " -j RETURN")
      }
      add("FORWARD -i orion-+ -j ORION-EGRESS")
      add("FORWARD -o orion-+ -j ORION-INGRESS")
      add("INPUT" known)
      # The name servers that the engine passes the questions of containers on to.
      resolvers = 0
      files = split("/etc/resolv.conf /run/systemd/resolve/resolv.conf", file, " ")
      for (i = 1; i <= files; i++) while ((getline line < file[i]) > 0) {
        split(line, word, " ")
        if (word[1] != "nameserver" || word[2] !~ /^[0-9.]+$/ || word[2] ~ /^127\./ || (word[2] in resolver)) continue
        if (++resolvers > 6) break
        resolver[word[2]]
        for (tcp = 0; tcp < 2; tcp++) {
          question = "-d " word[2] (tcp ? " -p tcp -m tcp" : " -p udp -m udp") " --dport 53 -j RETURN"
          add("EGRESS " question)
          add("INPUT -i orion-+ " question)
        }
      }
      add("INPUT -i orion-+" reject)
      add("EGRESS -o orion-+" reject)
      # The last 16 addresses from which Orion came.
      came = 0
      while ((getline line < "/run/orion/controllers") > 0) controller[++came] = line
      for (i = (came > 16 ? came - 15 : 1); i <= came; i++) if (controller[i] != "") add("EGRESS -d " controller[i] reject)
      count = split(denied, word, ",")
      for (i = 1; i <= count; i++) if (word[i] != "") add("EGRESS -d " word[i] reject)
      # A published port that the own process of the engine answers, where its rules were flushed.
      list = ""; listed = 0
      count = split(ports, word, ",")
      for (i = 1; i <= count; i++) if (word[i] != "") {
        list = list (listed ? "," : "") word[i]
        if (++listed == 15) show_ports()
      }
      if (listed) show_ports()
      count = split(proxies, word, ",")
      for (i = 1; i <= count; i++) if (word[i] != "") add("INGRESS -s " word[i] " -j RETURN")
      count = split(public_ports, word, ",")
      for (i = 1; i <= count; i++) if (word[i] != "")
        add("INGRESS -p tcp -m conntrack --ctorigdstport " word[i] " -j RETURN")
      add("INGRESS -j DROP")
    }' </dev/null
}

# open_networks: takes Orion's chains away.
open_networks() {
  rm -f /var/lib/orion/firewall /var/lib/orion/firewall.sh
  if ! command -v iptables >/dev/null || ! iptables -w 10 -S ORION-INPUT >/dev/null 2>&1; then return 0; fi
  {
    echo '*filter'
    iptables -w 10 -S | awk '$1 == "-A" && $2 !~ /^ORION-/ && $3 == "-j" && $4 ~ /^ORION-/ { sub(/^-A/, "-D"); print }'
    for command in -F -X; do for chain in FORWARD INPUT EGRESS INGRESS; do echo "$command ORION-$chain"; done; done
    echo COMMIT
  } | iptables-restore --noflush -w 10
}

containers_are_left() {
  for file in /var/lib/orion/containers/[0-9A-Z]*; do
    if [ -f "$file" ]; then return 0; fi
  done
  return 1
}
