#!/usr/bin/env bash
# Makes the Debian package: the program, its man pages and completions from its own grammar, the unit.
#
#   deploy/package.sh                              for this machine's architecture
#   deploy/package.sh --target aarch64-unknown-linux-gnu
#                                                  for the Raspberry Pi; needs, as root,
#                                                    dpkg --add-architecture arm64; apt-get update
#                                                    apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
#                                                  and `rustup target add aarch64-unknown-linux-gnu`
#   deploy/package.sh --no-build                   of a program that lies in target/release already
#   deploy/package.sh --revision 2                 the same version, packaged again
#   deploy/package.sh --fast                       packed less tightly, for tests
#
# The package is as old-fashioned as the glibc it is built with: build on Debian 12 for PVE 8 and later.
# The last line of standard output names the package. Needs cargo-deb (cargo install --locked cargo-deb).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target='' build=yes revision=1 fast=''
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=${2:?--target needs a triple}; shift 2 ;;
        --no-build) build=; shift ;;
        --fast) fast=--fast; shift ;;
        --revision) revision=${2:?--revision needs a number}; shift 2 ;;
        *) sed -nE '2,/^$/s/^# ?//p' "$0" >&2; exit 2 ;;
    esac
done

folder=${CARGO_TARGET_DIR:-target}
made=target/package
case $target in
    aarch64-*)
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}
        export CC_aarch64_unknown_linux_gnu=${CC_aarch64_unknown_linux_gnu:-aarch64-linux-gnu-gcc}
        ;;
esac

# The grammar is the same everywhere, so its pages come from a program that runs here.
if [ -n "$build" ]; then
    if [ -n "$target" ]; then
        cargo build --locked --release --target "$target" >&2
    fi
    cargo build --locked --release >&2
fi
spot=$folder/release/spot
rm -rf "$made"
mkdir -p "$made"
"$spot" man --to "$made/man"
for shell in bash zsh fish; do "$spot" completions "$shell" >"$made/spot.$shell"; done

cargo deb --no-build --deb-revision "$revision" $fast ${target:+--target "$target"}
