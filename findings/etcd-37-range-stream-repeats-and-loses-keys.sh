#!/bin/bash
# RangeStream, new in etcd 3.7, is to return what Range returns, in parts. With a sort target and no sort order, which Range reads as
# ascending, it is not refused, as other orders are: it returns some keys many times and others never, and counts what it returned.
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
cd "$tmp"

mkdir build
cat >build/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const keys = 2500

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func show(what string, answer *clientv3.GetResponse) (distinct int) {
	seen := map[string]bool{}
	for _, kv := range answer.Kvs {
		seen[string(kv.Key)] = true
	}
	fmt.Printf("%s: %d entries, count %d, %d different keys of %d\n", what, len(answer.Kvs), answer.Count, len(seen), keys)
	return len(seen)
}

func main() {
	ctx := context.Background()
	client := must(clientv3.New(clientv3.Config{Endpoints: os.Args[1:2]}))
	value := strings.Repeat(".", 400)
	// In another order than that of the keys: 7919 and 2500 have no common divisor.
	for n := 0; n < keys; n += 50 {
		puts := []clientv3.Op{}
		for i := n; i < n+50; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("k/%04d", i*7919%keys), value))
		}
		must(client.Txn(ctx).Then(puts...).Commit())
	}
	stream := func(options ...clientv3.OpOption) *clientv3.GetResponse {
		return must(clientv3.GetStreamToGetResponse(must(client.GetStream(ctx, "k/", options...))))
	}
	plain := show("stream, no sorting", stream(clientv3.WithPrefix()))
	sorted := clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortNone)
	got := show("range, sorted by create revision", must(client.Get(ctx, "k/", clientv3.WithPrefix(), sorted)))
	streamed := stream(clientv3.WithPrefix(), sorted)
	distinct := show("stream, sorted by create revision", streamed)
	_, err := clientv3.GetStreamToGetResponse(must(client.GetStream(ctx, "k/", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))))
	fmt.Println("stream, sorted by create revision, ascending:", err)
	repeats := len(streamed.Kvs) > distinct && streamed.Count == int64(len(streamed.Kvs))
	if plain != keys || got != keys || !repeats || distinct == keys || err == nil {
		os.Exit(1)
	}
}
GO
(
	cd build
	go mod init finding
	go get "go.etcd.io/etcd/server/v3@$etcd_version" "go.etcd.io/etcd/client/v3@$etcd_version"
	go mod tidy
	go get "go.etcd.io/etcd/server/v3@$etcd_version"
	CGO_ENABLED=0 go build -o ../etcd go.etcd.io/etcd/server/v3
	go build -o ../finding .
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
./etcd --version | sed -n 1p

read -r port peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
url=http://127.0.0.1:$port
./etcd --data-dir data --unsafe-no-fsync --listen-client-urls "$url" --advertise-client-urls "$url" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" >etcd.log 2>&1 &
pid=$!
curl --silent --retry 60 --retry-delay 1 --retry-connrefused --retry-max-time 60 "$url/health" >health

if ./finding "$url" 2>client.log; then
	echo "as stated"
else
	cat client.log
	echo "the behaviour has changed"
	false
fi
