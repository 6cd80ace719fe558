#!/bin/bash
# etcd's JSON gateway takes a word that it does not know in an enum field for the first value of that enum, and says nothing.
# A right in lower case, as etcdctl spells it, so becomes READ, "NOTEQUAL" becomes EQUAL, and "deactivate" only lists alarms.
set -euo pipefail
etcd_version=v3.7.3

tmp=$(mktemp -d)
pid=
finish() {
	if [ -n "$pid" ]; then
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	fi
	rm -rf "$tmp"
}
trap finish EXIT

mkdir "$tmp/build"
(
	cd "$tmp/build"
	go mod init finding
	go get "go.etcd.io/etcd/server/v3@$etcd_version"
	CGO_ENABLED=0 go build -o "$tmp/etcd" go.etcd.io/etcd/server/v3
) >"$tmp/build.log" 2>&1 &
wait $! || { cat "$tmp/build.log"; exit 1; }
"$tmp/etcd" --version | sed -n 1p

read -r client peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
url=http://127.0.0.1:$client
"$tmp/etcd" --data-dir "$tmp/data" --listen-client-urls "$url" --advertise-client-urls "$url" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" >"$tmp/etcd.log" 2>&1 &
pid=$!
curl --silent --retry 60 --retry-delay 1 --retry-connrefused --retry-max-time 60 "$url/health" >"$tmp/health"

# Prints an answer without its header.
call() {
	curl --silent --show-error --max-time 10 --data "$2" "$url/v3/$1" | sed -E 's/"header":\{[^}]*\},?//'
	echo
}
failed=0
expect() {
	local name=$1 wanted=$2 got=$3
	printf '%s\n  %s\n' "$name" "$got"
	if [ "$got" != "$wanted" ]; then
		printf '  CHANGED, it was: %s\n' "$wanted"
		failed=1
	fi
}

call auth/role/add '{"name": "app"}' >"$tmp/out"
expect 'grant permType "readwrite" on key a (YQ==): accepted' '{}' \
	"$(call auth/role/grant '{"name": "app", "perm": {"permType": "readwrite", "key": "YQ=="}}')"
expect 'grant permType "READWRITE" on key b (Yg==): accepted' '{}' \
	"$(call auth/role/grant '{"name": "app", "perm": {"permType": "READWRITE", "key": "Yg=="}}')"
expect 'the role: a may only be read (READ is the default, so it is not printed)' \
	'{"perm":[{"key":"YQ=="},{"permType":"READWRITE","key":"Yg=="}]}' "$(call auth/role/get '{"role": "app"}')"

condition='"key": "bm9uZQ==", "target": "VERSION", "version": "0"'
expect 'if the version of an absent key "NOT_EQUAL" 0: does not hold' '{}' \
	"$(call kv/txn "{\"compare\": [{$condition, \"result\": \"NOT_EQUAL\"}]}")"
expect 'if the version of an absent key "NOTEQUAL" 0: holds, because it is read as EQUAL' '{"succeeded":true}' \
	"$(call kv/txn "{\"compare\": [{$condition, \"result\": \"NOTEQUAL\"}]}")"

raised='{"alarms":[{"alarm":"NOSPACE"}]}'
expect 'raise an alarm' "$raised" "$(call maintenance/alarm '{"action": "ACTIVATE", "alarm": "NOSPACE"}')"
expect 'alarm action "deactivate": answers as DEACTIVATE does' "$raised" \
	"$(call maintenance/alarm '{"action": "deactivate", "alarm": "NOSPACE"}')"
expect 'but the alarm is still there, because it was read as GET' "$raised" "$(call maintenance/alarm '{"action": "GET"}')"
expect 'alarm action "DEACTIVATE"' "$raised" "$(call maintenance/alarm '{"action": "DEACTIVATE", "alarm": "NOSPACE"}')"
expect 'now it is gone' '{}' "$(call maintenance/alarm '{"action": "GET"}')"

if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
