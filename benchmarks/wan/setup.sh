#!/usr/bin/env bash
# Makes this machine ready for the wide-area laboratory (benchmarks/wan): iperf3, ip, ping and a C compiler,
# from the distribution's packages. Run it as often as you like: only what is missing is installed.
set -euo pipefail

# What has to be there, and the package that brings it.
readonly NEEDED=(iperf3:iperf3 ip:iproute2 ping:iputils-ping cc:gcc headers:libc6-dev)

usage() {
  cat <<'END'
Usage: benchmarks/wan/setup.sh [--check | --help]

Installs what the wide-area laboratory needs (Debian or Ubuntu, as root).

  --check   install nothing: say what is missing, exit 1 if anything is
  --help    this text
END
}

say() { printf '%s\n' "setup: $*"; }
die() {
  printf '%s\n' "setup: $*" >&2
  exit 1
}

is_there() {
  case $1 in
    headers) [[ -e /usr/include/linux/if_tun.h && -e /usr/include/stdio.h ]] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# The packages of what is missing, in `missing`.
look() {
  missing=()
  local each
  for each in "${NEEDED[@]}"; do
    is_there "${each%%:*}" || missing+=("${each##*:}")
  done
}

# What no package brings; it is said, and nothing is done about it.
look_at_kernel() {
  [[ -c /dev/net/tun ]] || say "note: /dev/net/tun is missing: load the kernel's tun module"
  grep -qw bbr /proc/sys/net/ipv4/tcp_available_congestion_control ||
    say "note: the kernel offers no BBR now: load tcp_bbr, or use --congestion cubic"
}

main() {
  case ${1-} in
    --help) usage && exit 0 ;;
    --check | '') ;;
    *) usage >&2 && exit 2 ;;
  esac
  look
  if ((${#missing[@]} > 0)); then
    [[ ${1-} != --check ]] || die "missing: ${missing[*]}"
    command -v apt-get >/dev/null || die "missing, and there is no apt-get to install it with: ${missing[*]}"
    ((EUID == 0)) || die "missing, and only root can install it: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    say "installing ${missing[*]}"
    apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
      apt-get update >/dev/null
      apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null
    }
    look
    ((${#missing[@]} == 0)) || die "still missing: ${missing[*]}"
  fi
  look_at_kernel
  say "ready"
}

main "$@"
