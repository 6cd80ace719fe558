#!/bin/bash
# How long etcd takes to stop while a client watches depends on the JSON gateway, which that client does not use. With TLS and the
# gateway (the default), SIGTERM takes 5 s and twice the election timeout. With --enable-grpc-gateway=false etcd ends at once and
# cuts the watch off. So a terminationGracePeriodSeconds that was measured with one setting is wrong with the other.
set -euo pipefail
etcd_version=v3.6.16

tmp=$(mktemp -d)
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	rm -rf "$tmp"
}
trap finish EXIT

mkdir "$tmp/build"
(
	cd "$tmp/build"
	go mod init finding
	go get "go.etcd.io/etcd/server/v3@$etcd_version" "go.etcd.io/etcd/etcdctl/v3@$etcd_version"
	CGO_ENABLED=0 go build -o "$tmp/etcd" go.etcd.io/etcd/server/v3
	CGO_ENABLED=0 go build -o "$tmp/etcdctl" go.etcd.io/etcd/etcdctl/v3
) >"$tmp/build.log" 2>&1 || { cat "$tmp/build.log"; exit 1; }
"$tmp/etcd" --version | sed -n 1p
cd "$tmp"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out crt.pem -days 2 -subj /CN=etcd \
	-addext subjectAltName=IP:127.0.0.1 2>openssl.log

# stop GATEWAY: how long etcd takes to stop while a client watches, in milliseconds.
stop() {
	local client peer url etcd watch began
	read -r client peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
	url=https://127.0.0.1:$client
	ctl() { ./etcdctl --endpoints "$url" --cacert crt.pem "$@"; }
	./etcd --data-dir "data-$1" --enable-grpc-gateway="$1" --heartbeat-interval 50 --election-timeout 500 \
		--cert-file crt.pem --key-file key.pem --listen-client-urls "$url" --advertise-client-urls "$url" \
		--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
		--initial-cluster "default=http://127.0.0.1:$peer" >"etcd-$1.log" 2>&1 &
	etcd=$!
	until ctl endpoint health >health.log 2>&1; do kill -0 "$etcd"; done
	ctl watch key >"seen-$1" 2>"watch-$1.log" &
	watch=$!
	pids+=("$etcd" "$watch")
	until [ -s "seen-$1" ]; do ctl put key value >put.log; done
	began=$(date +%s%3N)
	kill -TERM "$etcd"
	wait "$etcd" || true
	took=$(($(date +%s%3N) - began))
	kill "$watch"
	wait "$watch" || true
}

failed=0
stop true
echo "with the gateway: $took ms (5 s and twice the election timeout of 0.5 s)"
[ "$took" -ge 5900 ] && [ "$took" -lt 9000 ] || failed=1
stop false
echo "with --enable-grpc-gateway=false: $took ms"
[ "$took" -lt 2000 ] || failed=1
if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
