# shellcheck shell=bash disable=SC2034 # what is set here is used by those that source it
# Sourced by every script under hack/: paths, output and checks.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
hack=$root/hack

# Programs that are built once, and the running cluster, are outside the work tree.
export ETCD_WARDEN_CLUSTER=${ETCD_WARDEN_CLUSTER:-${HOME:-/root}/.cache/etcd-warden/cluster}
tools=${HOME:-/root}/.cache/etcd-warden/tools

# The default locations of the toolchains, if they are not in the PATH.
for d in /usr/local/go/bin "${HOME:-/root}/.cargo/bin"; do
	case ":$PATH:" in *":$d:"*) ;; *) [ ! -d "$d" ] || PATH=$PATH:$d ;; esac
done
export PATH

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '%s\n' "$@"; }
heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "must run as root: it $1"; }

# take_lock FILE: holds a lock on file descriptor 9 for the rest of the script. Processes that outlive the script must close it.
take_lock() {
	mkdir -p "$(dirname "$1")"
	exec 9>"$1"
	flock --timeout 2 9 || { say "waiting for another run that holds $1"; flock 9; }
}
