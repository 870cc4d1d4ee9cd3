# The firewall of containers: what those of leases reach, and who reaches them. Orion's networks have bridges called
# orion-NUMBER. The rules stand in chains of Orion's own (ORION-...), which begin INPUT and DOCKER-USER, or FORWARD.
# /var/lib/orion/firewall has them, and /var/lib/orion/firewall.sh puts them in place where they are not: the deadline process
# runs it, too, after a boot, a restart of the engine, and a flush by somebody else.

# firewall_script: what puts the rules in place, all at once, where they are not, or when they changed (with an argument).
# Under the lock.
firewall_script() {
  cat <<"SCRIPT"
rules=$(grep -c "^-A" /var/lib/orion/firewall) || exit 0
edits=$(iptables -w 10 -S | awk -v rules="$rules" '
  $1 == "-A" && $2 ~ /^ORION-/ { count++; next }
  $1 == "-A" && !($2 in first) { first[$2] = $0 }
  $1 == "-A" && $3 == "-j" && $4 ~ /^ORION-/ { sub(/^-A/, "-D"); edits = edits $0 "\n" }
  END {
    # What flushes FORWARD leaves DOCKER-USER without a jump to it.
    forward = (first["FORWARD"] == "-A FORWARD -j DOCKER-USER") ? "DOCKER-USER" : "FORWARD"
    printf "%s-I INPUT 1 -j ORION-INPUT\n-I %s 1 -j ORION-FORWARD\n", edits, forward
    exit !(count == rules && first["INPUT"] == "-A INPUT -j ORION-INPUT" && first[forward] == "-A " forward " -j ORION-FORWARD")
  }') && [ -z "${1:-}" ] && exit 0
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

# own_bridges: the bridges of Orion's networks.
own_bridges() {
  awk -F: '{ gsub(/ /, "", $1) } $1 ~ /^orion-[0-9]+$/ { print $1 }' /proc/net/dev
}

# no_ipv6: a container that sends what packets it likes could reach the node by the IPv6 address of its bridge.
no_ipv6() {
  for bridge in $(own_bridges); do
    ipv6=/proc/sys/net/ipv6/conf/$bridge/disable_ipv6
    if [ ! -e "$ipv6" ] || [ "$(cat "$ipv6")" = 1 ]; then continue; fi
    echo 1 2>/dev/null >"$ipv6" || return 1
  done
}

# controllers: the addresses from which Orion came by SSH since the machine's start, at most 16.
controllers() {
  came_from=${SSH_CONNECTION:-}
  came_from=${came_from%% *} came_from=${came_from#::ffff:}
  case $came_from in
  *[!0-9.]* | '') ;;
  *)
    if ! grep -qxF "$came_from" /run/orion/controllers 2>/dev/null; then
      printf '%s\n' "$came_from" >>/run/orion/controllers || :
    fi
    ;;
  esac
  tail -n 16 /run/orion/controllers 2>/dev/null | sort -u || :
}

# resolvers: the name servers that the engine passes the containers' questions on to.
resolvers() {
  awk '$1 == "nameserver" && $2 ~ /^[0-9.]+$/ && $2 !~ /^127\./ && !seen[$2]++ && ++count <= 6 { print $2 }' \
    /etc/resolv.conf /run/systemd/resolve/resolv.conf 2>/dev/null || :
}

# firewall_rules DENIED PROXIES PORTS PUBLIC_PORTS: what iptables-restore reads, without the COMMIT.
firewall_rules() {
  reject='REJECT --reject-with icmp-admin-prohibited'
  # Answers only: a connection that began while the rules were not there ends with its next packet, if it may not be.
  known='-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN'
  echo '*filter'
  for chain in FORWARD INPUT EGRESS INGRESS; do echo ":ORION-$chain - [0:0]"; done
  echo "-A ORION-FORWARD $known"
  # Two containers of one lease, where the kernel shows iptables what a bridge passes on.
  for bridge in $(own_bridges); do echo "-A ORION-FORWARD -i $bridge -o $bridge -j RETURN"; done
  echo '-A ORION-FORWARD -i orion-+ -j ORION-EGRESS'
  echo '-A ORION-FORWARD -o orion-+ -j ORION-INGRESS'
  echo "-A ORION-INPUT $known"
  for resolver in $(resolvers); do
    for protocol in udp tcp; do
      echo "-A ORION-EGRESS -d $resolver -p $protocol -m $protocol --dport 53 -j RETURN"
      echo "-A ORION-INPUT -i orion-+ -d $resolver -p $protocol -m $protocol --dport 53 -j RETURN"
    done
  done
  echo "-A ORION-INPUT -i orion-+ -j $reject"
  echo "-A ORION-EGRESS -o orion-+ -j $reject"
  for network in $(controllers) $(echo "$1" | tr , ' '); do echo "-A ORION-EGRESS -d $network -j $reject"; done
  # A published port that the engine's own process answers, where its rules were flushed.
  echo "$3" | tr , '\n' | awk 'NF { list = list (count ? "," : "") $1; if (++count == 15) { show() } } END { if (count) show() }
    function show() { print "-A ORION-INPUT ! -i lo -p tcp -m multiport --dports " list " -j ORION-INGRESS"; list = ""; count = 0 }'
  for proxy in $(echo "$2" | tr , ' '); do echo "-A ORION-INGRESS -s $proxy -j RETURN"; done
  for port in $(echo "$4" | tr , ' '); do
    echo "-A ORION-INGRESS -p tcp -m conntrack --ctorigdstport $port -j RETURN"
  done
  echo '-A ORION-INGRESS -j DROP'
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
