#!/bin/bash
# A host name that ends with a dot, as it is written in Kubernetes to skip the search domains, cannot be used with etcd by clients in Python
# and Node.js and by gRPC's C core: they put the dot into the TLS server name, and Go's server, so etcd, breaks off with "decode error" before
# any certificate is looked at. Go's own client and curl leave the dot out and connect.
set -euo pipefail
etcd_version=v3.7.3
grpc_version=1.85.3

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

mkdir build python
cat >build/client.go <<'GO'
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
)

func main() {
	url, address := os.Args[1], os.Args[2]
	pem, err := os.ReadFile("server.crt")
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	response, err := client.Get(url)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(response.StatusCode)
}
GO
(
	cd build
	go mod init finding
	go get "go.etcd.io/etcd/server/v3@$etcd_version"
	CGO_ENABLED=0 go build -o ../etcd go.etcd.io/etcd/server/v3
	go build -o ../client client.go
	cd ..
	python3 -m pip install --quiet --target python "grpcio==$grpc_version"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.crt -days 1 -subj /CN=etcd \
		-addext subjectAltName=DNS:etcd.default.svc.cluster.local
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
./etcd --version | sed -n 1p
python3 -c 'import ssl, sys; print("Python", sys.version.split()[0], "with", ssl.OPENSSL_VERSION)'
echo "Node.js $(node --version), grpcio $grpc_version, $(go env GOVERSION), $(curl --version | cut -d' ' -f1-2 | sed -n 1p)"

read -r port peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
./etcd --data-dir data --listen-client-urls "https://127.0.0.1:$port" --advertise-client-urls "https://127.0.0.1:$port" \
	--cert-file server.crt --key-file server.key \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" >etcd.log 2>&1 &
pid=$!
host=etcd.default.svc.cluster.local
curl --silent --retry 60 --retry-delay 1 --retry-connrefused --retry-max-time 60 --cacert server.crt \
	--connect-to "$host:$port:127.0.0.1:$port" "https://$host:$port/health" >health

cat >python.py <<'PY'
import socket, ssl, sys
context = ssl.create_default_context(cafile="server.crt")
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=sys.argv[1]):
            print("connected")
except ssl.SSLError as error:
    print("refused:", error.reason)
PY
cat >node.js <<'JS'
const [host, port] = process.argv.slice(2);
const lookup = (name, options, done) => done(null, options.all ? [{ address: '127.0.0.1', family: 4 }] : '127.0.0.1', 4);
require('https').get({ host, port, path: '/health', ca: require('fs').readFileSync('server.crt'), lookup }, answer => {
  console.log('connected');
  answer.resume();
}).on('error', error => console.log('refused:', (error.message.match(/alert decode error/) || [error.message])[0]));
JS
cat >grpc_core.py <<'PY'
import sys, grpc
credentials = grpc.ssl_channel_credentials(open("server.crt", "rb").read())
channel = grpc.secure_channel(f"127.0.0.1:{sys.argv[2]}", credentials, [("grpc.ssl_target_name_override", sys.argv[1])])
try:
    channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=10)
    print("connected")
except grpc.RpcError as error:
    print("refused:", error.code().name)
PY
clients() {
	local name=$1
	echo "Go: $(./client "https://$name:$port/health" "127.0.0.1:$port" | sed s/200/connected/)"
	echo "curl: $(curl --silent --output out --write-out '%{http_code}' --cacert server.crt --connect-to "$name:$port:127.0.0.1:$port" \
		"https://$name:$port/health" | sed s/200/connected/)"
	echo "Python: $(python3 python.py "$name" "$port")"
	echo "Node.js: $(node node.js "$name" "$port")"
	echo "grpcio: $(GRPC_VERBOSITY=NONE PYTHONPATH=python python3 grpc_core.py "$name" "$port")"
}
failed=0
expect() {
	local what=$1 wanted=$2 got=$3
	printf '%s\n%s\n' "$what" "$got"
	if [ "$got" != "$wanted" ]; then
		printf 'CHANGED, it was:\n%s\n' "$wanted"
		failed=1
	fi
}
expect "-- $host" 'Go: connected
curl: connected
Python: connected
Node.js: connected
grpcio: connected' "$(clients "$host")"
expect "-- $host." 'Go: connected
curl: connected
Python: refused: TLSV1_ALERT_DECODE_ERROR
Node.js: refused: alert decode error
grpcio: refused: UNAVAILABLE' "$(clients "$host.")"
echo "-- etcd's log: $(grep 'rejected connection' etcd.log | grep --only-matching '"error":"[^"]*"' | sort | uniq -c | sed 's/127.0.0.1:[0-9]*/.../g')"

if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
