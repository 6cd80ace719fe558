#!/bin/bash
# Values of NO_PROXY with which Go's etcd client and curl leave the proxy out, but other gRPC clients do not: Node.js's etcd3 (grpc-js) takes
# the space after a comma for a part of the name, and neither it nor gRPC's C core (grpcio for Python) knows "*". So what a namespace injects
# into all pods sends the connections of some of them to etcd.default.svc through the proxy.
set -euo pipefail
etcd_version=v3.7.3
grpc_version=1.85.3
etcd3_version=1.1.2
grpc_js_version=1.14.7

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

mkdir go node python
cat >go/main.go <<'GO'
package main

import (
	"context"
	"crypto/tls"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func main() {
	config := clientv3.Config{Endpoints: []string{"https://etcd.default.svc:2379"}, TLS: &tls.Config{}, Logger: zap.NewNop()}
	client, err := clientv3.New(config)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := client.Get(ctx, "k"); err == nil {
		panic("there is no etcd")
	}
}
GO
(
	cd go
	go mod init finding
	go get "go.etcd.io/etcd/client/v3@$etcd_version"
	go mod tidy
	go build -o ../etcd-client .
	cd ../node
	npm init --yes
	npm install --no-audit --no-fund "etcd3@$etcd3_version" "@grpc/grpc-js@$grpc_js_version"
	cd ..
	python3 -m pip install --quiet --target python "grpcio==$grpc_version"
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
echo "etcd client $etcd_version with $(go env GOVERSION), grpcio $grpc_version, etcd3 $etcd3_version with @grpc/grpc-js $grpc_js_version," \
	"$(curl --version | cut -d' ' -f1-2 | sed -n 1p)"

# A proxy that logs the requests and makes no connections.
cat >proxy.py <<'PY'
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    request = connection.recv(4096)
    with open("requests", "ab") as log:
        log.write(request.split(b"\r\n")[0] + b"\n")
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    connection.close()
PY
python3 proxy.py >port &
pid=$!
until [ -s port ]; do sleep 0.1; done

cat >grpc_core.py <<'PY'
import grpc
channel = grpc.secure_channel("etcd.default.svc:2379", grpc.ssl_channel_credentials())
try:
    channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=3)
except grpc.RpcError:
    pass
PY
cat >node/client.js <<'JS'
const { Etcd3 } = require('etcd3');
const client = new Etcd3({ hosts: 'https://etcd.default.svc:2379', faultHandling: { global: { execute: call => call({ signal: undefined }) } } });
client.get('k').options({ deadline: Date.now() + 3000 }).catch(() => {}).finally(() => process.exit());
JS
# Whether a client asks the proxy, in its environment.
way() {
	rm -f requests
	"$@" >client.log 2>&1 || true
	if grep --silent 'CONNECT etcd.default.svc:2379' requests 2>/dev/null; then echo proxy; else echo direct; fi
}
proxy=http://127.0.0.1:$(cat port)
failed=0
expect() {
	local value=$1 wanted=$2 got
	export https_proxy=$proxy HTTPS_PROXY=$proxy no_proxy=$value NO_PROXY=$value
	got="Go $(way ./etcd-client), curl $(way curl --silent --max-time 3 https://etcd.default.svc:2379/health)"
	got="$got, grpcio $(PYTHONPATH=python way python3 grpc_core.py), Node.js $(way node node/client.js)"
	printf 'NO_PROXY="%s": %s\n' "$value" "$got"
	if [ "$got" != "$wanted" ]; then
		printf '  CHANGED, it was: %s\n' "$wanted"
		failed=1
	fi
}
expect '' 'Go proxy, curl proxy, grpcio proxy, Node.js proxy'
expect 'localhost,.svc' 'Go direct, curl direct, grpcio direct, Node.js direct'
expect 'localhost, .svc' 'Go direct, curl direct, grpcio direct, Node.js proxy'
expect '*' 'Go direct, curl direct, grpcio proxy, Node.js proxy'

if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
