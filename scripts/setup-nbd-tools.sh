#!/usr/bin/env bash
# Makes this machine ready for the tests that let our NBD client and server talk to what others have written (test/nbd/interop*.test.ts):
# nbdinfo and nbdcopy (libnbd), nbdkit with its filters, and fio with its nbd engine; qemu-io and qemu-nbd come with scripts/setup-qemu.sh.
# Run it as often as you like: what is there already is left alone.
set -euo pipefail

readonly PACKAGES=(libnbd-bin nbdkit fio)

usage() {
  cat <<'END'
Usage: scripts/setup-nbd-tools.sh [--check | --help]

Installs nbdinfo, nbdcopy, nbdkit and fio (Debian or Ubuntu; root is needed only
for what has to be installed).

  --check   install nothing: say what is missing, exit 1 if anything is
  --help    this text
END
}

say() { printf '%s\n' "setup-nbd-tools: $*"; }
die() {
  printf '%s\n' "setup-nbd-tools: $*" >&2
  exit 1
}

list_missing() {
  local tool
  for tool in nbdinfo nbdcopy nbdkit fio; do
    command -v "$tool" >/dev/null || echo "$tool"
  done
  if command -v fio >/dev/null && ! fio --enghelp | grep -w nbd >/dev/null; then
    echo "fio's nbd engine, without which this fio was built"
  fi
  # Some distributions have the filters in a package of their own.
  if command -v nbdkit >/dev/null && ! nbdkit --filter=error --dump-plugin null >/dev/null 2>&1; then
    echo "nbdkit's filters"
  fi
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }

case ${1:-} in
  --help | -h)
    usage
    exit
    ;;
  --check)
    missing=$(list_missing)
    [[ -z $missing ]] || die "missing: ${missing//$'\n'/; }"
    exit
    ;;
  '') ;;
  *)
    usage >&2
    exit 2
    ;;
esac

missing=$(list_missing)
if [[ -z $missing ]]; then
  say 'all there'
  exit
fi
command -v apt-get >/dev/null || die "missing: ${missing//$'\n'/; } (this script knows Debian and Ubuntu only)"
[[ $EUID -eq 0 ]] || die "missing: ${missing//$'\n'/; } (run as root to install it)"

say "installing ${PACKAGES[*]}"
apt_get update || { sleep 3 && apt_get update; }
apt_get install --yes --no-install-recommends "${PACKAGES[@]}" >/dev/null
missing=$(list_missing)
[[ -z $missing ]] || die "missing: ${missing//$'\n'/; }, although ${PACKAGES[*]} were installed"
say "ready: $(nbdinfo --version | head -n 1), $(nbdkit --version), $(fio --version)"
