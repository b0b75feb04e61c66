#!/usr/bin/env bash
# The Debian package, installed, upgraded, removed and purged in a Debian root of its own.
#
# Needs root, cargo-deb and debootstrap, and the network once for the root, which is kept in
# target/package-root.tar. PACKAGE_BUILD=no takes the program that lies in target/release already.
# The last line of standard output counts what passed and failed, as JSON.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

SUITE=bookworm
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
kept=$PWD/target/package-root.tar
work=$(mktemp -d)
root=$work/root
trap 'rm -rf "$work"' EXIT

passed=0 failed=0
say() { printf '%s\n' "$*" >&2; }
claim() {
    local what=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        say "FAILED: $what"
        cat "$work/said" >&2
    fi
}

# --- the packages --------------------------------------------------------------------------------

# A package that is made removes the one before it, so each is taken away at once.
options=(--fast)
if [ "${PACKAGE_BUILD:-yes}" = no ]; then options+=(--no-build); fi
made() {
    local package
    package=$(deploy/package.sh "${options[@]}" --revision "$1" | tail -n 1)
    if [ ! -f "$package" ]; then
        say "no package was made"
        return 1
    fi
    mv "$package" "$work/" && echo "$work/$(basename "$package")"
}
first=$(made 1) || exit 1
options+=(--no-build)
second=$(made 2) || exit 1

dpkg-deb --contents "$first" >"$work/contents"
lists() { grep -q "$1" "$work/contents"; }
for path in ./usr/bin/spot ./usr/share/man/man1/spot.1.gz ./usr/share/man/man1/spot-run.1.gz \
    ./usr/share/bash-completion/completions/spot ./usr/share/zsh/vendor-completions/_spot \
    ./usr/share/fish/vendor_completions.d/spot.fish ./usr/lib/systemd/system/spot.service \
    ./usr/lib/sysusers.d/spot.conf ./usr/lib/tmpfiles.d/spot.conf ./etc/default/spot; do
    claim "the package has $path" lists " $path\$"
done
conffiles() { dpkg-deb --info "$first" conffiles | grep -qx /etc/default/spot; }
claim "/etc/default/spot is a conffile" conffiles

# --- the root ------------------------------------------------------------------------------------

if [ ! -f "$kept" ]; then
    say "making a Debian root"
    debootstrap --variant=minbase "$SUITE" "$work/new" "$MIRROR" >&2 || exit 1
    mkdir -p target && tar -C "$work/new" -cf "$kept.new" . && mv "$kept.new" "$kept"
    rm -rf "$work/new"
fi
mkdir -p "$root" && tar -C "$root" -xf "$kept"
cp "$first" "$root/first.deb"
cp "$second" "$root/second.deb"

# In namespaces of its own, so that nothing it starts outlives it or meets the outer machine.
inside() {
    unshare --mount --pid --net --uts --ipc --fork --kill-child \
        chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        sh -c 'mount -t proc proc /proc && "$@"' sh "$@"
}
there() { [ -e "$root$1" ]; }
gone() { [ ! -e "$root$1" ]; }
mode() { [ "$(inside stat -c '%a %U' "$1")" = "$2" ]; }
holds() { grep -q "$2" "$root$1"; }

# --- install -------------------------------------------------------------------------------------

claim "it installs with what it depends on" inside dpkg -i /first.deb
claim "the program runs" inside spot --version
claim "the demo runs" inside spot demo --json
claim "it has a user of its own" inside getent passwd spot
claim "the journal's folder is its user's" mode /var/lib/spot "750 spot"
claim "the secrets' folder is root's alone" mode /etc/spot/credentials "700 root"
claim "no spot.yaml is there before init" gone /etc/spot/spot.yaml
# In a root without systemd the units it rests on are missing; what it says of the keys is what counts.
verify() { ! systemd-analyze verify --root="$root" spot.service 2>&1 | grep -iE 'unknown|ignoring|failed to parse'; }
exposed() { systemd-analyze security --offline=true --threshold=15 "$root/usr/lib/systemd/system/spot.service"; }
if command -v systemd-analyze >/dev/null; then
    claim "systemd finds nothing wrong with the unit" verify
    claim "the unit is exposed to 1.5 at most" exposed
fi
again() { inside dpkg -i /first.deb; }
claim "installing it again changes nothing" again

# --- what an owner makes of it -------------------------------------------------------------------

echo 'SPOT_OPTIONS="" # mine' >"$root/etc/default/spot"
echo 'mode: rehearse' >"$root/etc/spot/spot.yaml"
echo 'timezone: UTC' >"$root/etc/spot/policies/home.yaml"
echo secret >"$root/etc/spot/credentials/pve-token"
echo journal >"$root/var/lib/spot/journal.db"

# --- upgrade, remove, purge ----------------------------------------------------------------------

claim "it upgrades without a question" inside dpkg -i /second.deb
upgraded() { inside dpkg-query -W -f '${Version}' spot | grep -q -- '-2$'; }
claim "the new one is in place" upgraded
claim "the conffile stays as its owner wrote it" holds /etc/default/spot mine
for file in /etc/spot/spot.yaml /etc/spot/policies/home.yaml /etc/spot/credentials/pve-token \
    /var/lib/spot/journal.db; do
    claim "an upgrade leaves $file" there "$file"
done

claim "it can be removed" inside dpkg --remove spot
claim "the program is gone" gone /usr/bin/spot
for file in /etc/default/spot /etc/spot/spot.yaml /etc/spot/credentials/pve-token \
    /var/lib/spot/journal.db; do
    claim "a removal leaves $file" there "$file"
done

claim "it installs over what was left" inside dpkg -i /second.deb
claim "and is purged" inside dpkg --purge spot
for file in /etc/default/spot /etc/spot /var/lib/spot /usr/lib/systemd/system/spot.service; do
    claim "a purge leaves no $file" gone "$file"
done
nobody() { ! inside getent passwd spot; }
claim "a purge leaves no user" nobody

# Policies under git are somebody's work.
claim "it installs once more" inside dpkg -i /first.deb
mkdir -p "$root/etc/spot/policies/.git"
claim "and is purged again" inside dpkg --purge spot
claim "a purge leaves policies under git" there /etc/spot/policies/.git

printf '{"package":"%s","bytes":%s,"passed":%s,"failed":%s}\n' \
    "$(basename "$first")" "$(stat -c %s "$first")" "$passed" "$failed"
[ "$failed" = 0 ]
