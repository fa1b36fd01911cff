#!/usr/bin/env bash
# Makes this machine ready for the tests that boot a real Linux guest (test/qemu):
# QEMU 9 or later from the distribution, and the guest itself, built in .cache/guest:
#
#   vmlinuz        the distribution's kernel for virtual machines
#   initramfs.gz   busybox, the virtio modules, test/qemu/guest/init and the compiled workload.c
#   stamp          what initramfs.gz was made from; a changed workload.c rebuilds nothing else
#
# QEMU before 9.0 loses guest writes when it migrates a TCG guest, so an older one is no use here.
# Run it as often as you like: what is there already is left alone.
set -euo pipefail

readonly QEMU_VERSION_MIN=9
readonly QEMU_PACKAGES=(qemu-system-x86 qemu-utils qemu-block-extra)
# In the order of insertion. A module that the kernel has built in is skipped.
readonly MODULES=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk)
# Meta packages whose kernel suits a small guest: Debian's name, then Ubuntu's.
readonly KERNEL_METAS=(linux-image-cloud-amd64 linux-image-virtual)

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly guest_sources="$root/test/qemu/guest"
readonly cache="$root/.cache/guest"

usage() {
  cat <<'END'
Usage: scripts/setup-qemu.sh [--check | --help]

Installs QEMU 9 or later and builds the test guest in .cache/guest (Debian or
Ubuntu on x86-64; root is needed only for what has to be installed).

  --check   install and build nothing: say what is missing, exit 1 if anything is
  --help    this text
END
}

say() { printf '%s\n' "setup-qemu: $*"; }
die() {
  printf '%s\n' "setup-qemu: $*" >&2
  exit 1
}

# ---- What is there -----------------------------------------------------------

qemu_is_there() {
  local version
  command -v qemu-img >/dev/null || return 1
  version=$(qemu-system-x86_64 --version 2>/dev/null | sed -nE '1s/.* version ([0-9]+).*/\1/p') || return 1
  [[ -n $version ]] && ((version >= QEMU_VERSION_MIN))
}

compiler_is_there() {
  command -v gcc >/dev/null && [[ -e $(gcc -print-file-name=libc.a) ]]
}

kernel_is_there() { [[ -s $cache/vmlinuz && -d $cache/modules ]]; }

busybox_is_there() { [[ -x $cache/busybox ]]; }

wanted_stamp() {
  (cd "$root" && sha256sum scripts/setup-qemu.sh test/qemu/guest/{init,workload.c})
  cat "$cache/kernel-package" "$cache/busybox-package" 2>/dev/null || true
}

initramfs_is_there() {
  [[ -s $cache/initramfs.gz && -f $cache/stamp ]] && wanted_stamp | cmp -s - "$cache/stamp"
}

list_missing() {
  qemu_is_there || echo "QEMU $QEMU_VERSION_MIN or later (qemu-system-x86_64 and qemu-img)"
  kernel_is_there || echo 'the guest kernel (.cache/guest/vmlinuz)'
  busybox_is_there || echo 'busybox for the guest (.cache/guest/busybox)'
  if ! initramfs_is_there; then
    compiler_is_there || echo 'gcc with a static C library'
    echo 'an up-to-date .cache/guest/initramfs.gz'
  fi
}

# ---- apt ---------------------------------------------------------------------

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }

apt_updated=false
apt_update() {
  if [[ $EUID -ne 0 ]]; then return; fi # Whoever is not root has to do with the lists that are there.
  apt_get update || { sleep 3 && apt_get update; }
  apt_updated=true
}
apt_update_once() { [[ $apt_updated == true ]] || apt_update; }

apt_candidate() { # package, further options for apt-cache
  LC_ALL=C apt-cache "${@:2}" policy "$1" | sed -nE 's/^ +Candidate: (.*)/\1/p' | grep -v '^(none)$' || true
}

new_enough() { # a Debian version, with or without an epoch
  [[ -n $1 ]] && dpkg --compare-versions "${1#*:}" ge "$QEMU_VERSION_MIN"
}

apt_install() {
  apt_get install --yes --no-install-recommends "$@" >/dev/null ||
    die "missing: ${*: -1}, which could not be installed"
}

# ---- QEMU --------------------------------------------------------------------

# Prints a source entry for <codename>-backports on the mirror from which <codename> itself comes, in the
# style and with the signing key of the entry that is there, whichever of apt's two styles that is.
print_backports_source() { # codename
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [[ -f $file ]] || continue
    awk -v codename="$1" '
      function end_of_stanza() {
        if (!found && types ~ /(^| )deb( |$)/ && suites ~ "(^| )" codename "( |$)" && !disabled) {
          printf "%s", stanza
          found = 1
        }
        types = suites = stanza = field = ""; disabled = 0
      }
      /^#/ { next }
      /^[ \t]*$/ { end_of_stanza(); next }
      { sub(/\r$/, "") }
      /^[^ \t]/ {
        field = tolower($0); sub(/:.*/, "", field)
        value = $0; sub(/^[^:]*:[ \t]*/, "", value); gsub(/[ \t]+/, " ", value)
      }
      field == "enabled" && value ~ /^(no|false|0)/ { disabled = 1 }
      field == "types" { types = types " " value; if (/^[^ \t]/) stanza = stanza "Types: deb\n"; next }
      field == "suites" {
        suites = suites " " value
        if (/^[^ \t]/) stanza = stanza "Suites: " codename "-backports\n"
        next
      }
      { stanza = stanza $0 "\n" }
      END { end_of_stanza(); exit !found }' "$file" && return
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ -f $file ]] || continue
    awk -v codename="$1" '
      $1 == "deb" {
        n = 2
        if ($2 ~ /^\[/) { while ($n !~ /\]$/ && n < NF) n++; n++ }
        if ($(n + 1) == codename) { $(n + 1) = codename "-backports"; print; found = 1; exit }
      }
      END { exit !found }' "$file" && return
  done
  return 1
}

install_qemu() {
  local codename suite entry file=''
  apt_update_once
  if new_enough "$(apt_candidate qemu-system-x86)"; then
    apt_install "${QEMU_PACKAGES[@]}"
  else
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [[ -n $codename ]] || die "missing: QEMU $QEMU_VERSION_MIN or later; this release has no backports suite"
    suite="$codename-backports"
    if ! new_enough "$(apt_candidate qemu-system-x86 -t "$suite" 2>/dev/null)"; then
      entry=$(print_backports_source "$codename") ||
        die "missing: QEMU $QEMU_VERSION_MIN or later; no apt source for $codename found to derive $suite from"
      file=/etc/apt/sources.list.d/longhaul-backports.list
      if [[ $entry != deb\ * ]]; then file=${file%.list}.sources; fi
      say "adding $suite in $file"
      printf '%s\n' "$entry" >"$file"
      if ! apt_update || ! new_enough "$(apt_candidate qemu-system-x86 -t "$suite" 2>/dev/null)"; then
        rm -f "$file" # Leave the machine as it was.
        die "missing: QEMU $QEMU_VERSION_MIN or later; $suite of the configured mirror has none"
      fi
    fi
    apt_install -t "$suite" "${QEMU_PACKAGES[@]}"
  fi
  qemu_is_there || die "missing: QEMU $QEMU_VERSION_MIN or later, although ${QEMU_PACKAGES[*]} were installed"
}

# ---- The guest's parts -------------------------------------------------------

work=''
# shellcheck disable=SC2154 # status is assigned inside the trap
trap 'status=$?; [[ -z $work ]] || rm -rf "$work"; exit $status' EXIT

fetch() { # package..., into $work/<name>; each is unpacked, not installed
  local package
  for package in "$@"; do
    mkdir -p "$work/$package"
    # apt drops its privileges to a user that cannot write here; it says so, and goes on.
    (cd "$work/$package" && apt_get -o APT::Sandbox::User=root download "$package") ||
      { apt_update && (cd "$work/$package" && apt_get -o APT::Sandbox::User=root download "$package"); } ||
      die "missing: package $package, which could not be downloaded"
    dpkg -x "$work/$package"/*.deb "$work/$package/root"
  done
}

# The packages that hold the kernel and its modules: what the meta package stands for today.
kernel_packages() {
  local meta packages
  for meta in "${KERNEL_METAS[@]}"; do
    packages=$(LC_ALL=C apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
      --no-replaces --no-enhances "$meta" 2>/dev/null |
      sed -nE 's/^(linux-(image|modules)-(unsigned-)?[0-9][a-z0-9.+~-]*)$/\1/p' | sort -u) || true
    if [[ -n $packages ]]; then
      printf '%s\n' "$packages"
      return
    fi
  done
  return 1
}

get_kernel() {
  local packages module file release
  apt_candidate "${KERNEL_METAS[0]}" | grep -q . || apt_update_once
  packages=$(kernel_packages) || die "missing: a kernel package (${KERNEL_METAS[*]})"
  # Of a signed and an unsigned build of the same kernel either will do.
  say "fetching ${packages//$'\n'/ }"
  # shellcheck disable=SC2086 # one word a package
  fetch $packages
  rm -rf "$cache/modules" && mkdir -p "$cache/modules"
  release=$(find "$work" -path '*/boot/vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V | tail -n 1)
  [[ -n $release ]] || die "missing: a kernel in ${packages//$'\n'/ }"
  for module in "${MODULES[@]}"; do
    file=$(find "$work" -path "*/modules/$release/*" -name "$module.ko*" -print -quit)
    case $file in
      *.ko) cp "$file" "$cache/modules/$module.ko" ;;
      *.ko.xz) "$cache/busybox" unxz -c "$file" >"$cache/modules/$module.ko" ;;
      *.ko.gz) gzip -dc "$file" >"$cache/modules/$module.ko" ;;
      *.ko.zst)
        command -v zstd >/dev/null || apt_install zstd
        zstd -qdc "$file" >"$cache/modules/$module.ko"
        ;;
      *)
        find "$work" -path "*/modules/$release/modules.builtin" -exec grep -q "/$module\.ko" {} + ||
          die "missing: module $module in ${packages//$'\n'/ }"
        ;;
    esac
  done
  printf '%s\n' "$packages" >"$cache/kernel-package"
  cp "$(find "$work" -path "*/boot/vmlinuz-$release" -print -quit)" "$cache/vmlinuz.new"
  chmod 644 "$cache/vmlinuz.new"
  mv "$cache/vmlinuz.new" "$cache/vmlinuz" # Last: it is what says that all the rest is there.
}

get_busybox() {
  apt_candidate busybox-static | grep -q . || apt_update_once
  fetch busybox-static
  apt_candidate busybox-static | sed 's/^/busybox-static /' >"$cache/busybox-package"
  cp "$(find "$work/busybox-static/root" -path "*/bin/busybox" -print -quit)" "$cache/busybox.new"
  mv "$cache/busybox.new" "$cache/busybox"
}

build_initramfs() {
  local tree="$work/initramfs"
  mkdir -p "$tree"/{bin,dev,proc,sys,modules}
  gcc -std=gnu11 -O2 -Wall -Wextra -static -pthread -o "$tree/bin/workload" "$guest_sources/workload.c"
  cp "$cache/busybox" "$tree/bin/busybox"
  cp "$cache"/modules/*.ko "$tree/modules/" 2>/dev/null || true # None, if all are built in.
  (IFS=$'\n' && echo "${MODULES[*]}") >"$tree/modules/order"
  cp "$guest_sources/init" "$tree/init"
  chmod 755 "$tree/init" "$tree/bin/busybox"
  (cd "$tree" && find . | LC_ALL=C sort | "$cache/busybox" cpio -o -H newc 2>/dev/null | gzip -6n) \
    >"$cache/initramfs.gz.new"
  mv "$cache/initramfs.gz.new" "$cache/initramfs.gz"
  wanted_stamp >"$cache/stamp"
}

# ---- Main --------------------------------------------------------------------

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
[[ $(uname -m) == x86_64 ]] || die "missing: ${missing//$'\n'/; } (this script knows x86-64 only)"
command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
  die "missing: ${missing//$'\n'/; } (this script knows Debian and Ubuntu only)"
if [[ $EUID -ne 0 ]] && ! { qemu_is_there && compiler_is_there; }; then
  die "missing: ${missing//$'\n'/; } (run as root to install it)"
fi

mkdir -p "$cache"
exec 9>"$cache/lock" # Two at once would build into each other's files.
flock 9
work=$(mktemp -d)

qemu_is_there || { say "installing QEMU" && install_qemu; }
busybox_is_there || get_busybox
kernel_is_there || get_kernel
if ! initramfs_is_there; then
  compiler_is_there || { apt_update_once && apt_install gcc libc6-dev; }
  build_initramfs
fi
say "ready: $(qemu-system-x86_64 --version | head -n 1), $(head -n 1 "$cache/kernel-package")"
