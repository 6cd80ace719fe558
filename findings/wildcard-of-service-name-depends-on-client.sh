#!/bin/bash
# A certificate for *.etcd-headless, the short names of a StatefulSet's pods, is good for etcd-0.etcd-headless in Go and in gRPC's C core.
# OpenSSL, and so Python, Node.js and rustls refuse it, because only one label follows the asterisk. They accept *.etcd-headless.default.
set -euo pipefail
grpc_version=1.85.3
webpki_version=0.103.17

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

mkdir go rust rust/src python
cat >go/main.go <<'GO'
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
)

// serve CERTIFICATE KEY: prints its port and serves HTTP/2. dial CERTIFICATE PORT NAME: whether a handshake succeeds.
func main() {
	switch os.Args[1] {
	case "serve":
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		panic(http.ServeTLS(listener, http.NotFoundHandler(), os.Args[2], os.Args[3]))
	case "dial":
		pem, err := os.ReadFile(os.Args[2])
		if err != nil {
			panic(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		_, err = tls.Dial("tcp", "127.0.0.1:"+os.Args[3], &tls.Config{RootCAs: roots, ServerName: os.Args[4]})
		if err != nil {
			fmt.Println("refused")
			return
		}
		fmt.Println("accepted")
	}
}
GO
cat >rust/Cargo.toml <<TOML
[package]
name = "finding"
version = "0.1.0"
edition = "2021"

[dependencies]
rustls-webpki = { version = "=$webpki_version", default-features = false, features = ["std"] }
rustls-pki-types = { version = "=1.16.0", features = ["std"] }
TOML
cat >rust/src/main.rs <<'RUST'
use rustls_pki_types::{pem::PemObject, CertificateDer, ServerName};

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let der = CertificateDer::from_pem_file(&arguments[1]).expect("certificate");
    let certificate = webpki::EndEntityCert::try_from(&der).expect("certificate");
    let name = ServerName::try_from(arguments[2].as_str()).expect("name");
    let is_valid = certificate.verify_is_valid_for_subject_name(&name).is_ok();
    println!("{}", if is_valid { "accepted" } else { "refused" });
}
RUST
(
	cd go
	go mod init finding
	go build -o ../tls .
	cd ../rust
	CARGO_TARGET_DIR=$tmp/target cargo build --quiet
	cd ..
	python3 -m pip install --quiet --target python "grpcio==$grpc_version"
	for suffix in etcd-headless etcd-headless.default; do
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $suffix.key -out $suffix.crt -days 1 -subj /CN=etcd \
			-addext "subjectAltName=DNS:*.$suffix"
	done
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
python3 -c 'import ssl, sys; print("Python", sys.version.split()[0], "with", ssl.OPENSSL_VERSION)'
echo "$(openssl version | cut -d' ' -f1-2), Node.js $(node --version), grpcio $grpc_version, $(go env GOVERSION), rustls-webpki $webpki_version"

cat >python.py <<'PY'
import socket, ssl, sys
certificate, port, name = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=name):
            print("accepted")
except ssl.SSLCertVerificationError:
    print("refused")
PY
cat >node.js <<'JS'
const [certificate, port, name] = process.argv.slice(2);
const ca = require('fs').readFileSync(certificate);
const socket = require('tls').connect({ host: '127.0.0.1', port, servername: name, ca }, () => {
  console.log('accepted');
  socket.end();
}).on('error', error => console.log(error.code === 'ERR_TLS_CERT_ALTNAME_INVALID' ? 'refused' : error.message));
JS
cat >grpc_core.py <<'PY'
import sys, grpc
certificate, port, name = sys.argv[1:]
channel = grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(open(certificate, "rb").read()),
                              [("grpc.ssl_target_name_override", name)])
try:
    channel.unary_unary("/finding/None")(b"", timeout=10)
except grpc.RpcError as error:
    # The server has no such method; what counts is that the handshake succeeded.
    print("refused" if error.code() == grpc.StatusCode.UNAVAILABLE else "accepted")
PY
judge() {
	local suffix=$1 name=etcd-0.$1 certificate=$1.crt port
	rm -f port
	./tls serve "$certificate" "$suffix.key" >port 2>server.log &
	pid=$!
	until [ -s port ]; do sleep 0.1; done
	port=$(cat port)
	echo "Go: $(./tls dial "$certificate" "$port" "$name")"
	echo "gRPC C core: $(GRPC_VERBOSITY=NONE PYTHONPATH=python python3 grpc_core.py "$certificate" "$port" "$name")"
	echo "openssl x509 -checkhost: $(openssl x509 -in "$certificate" -noout -checkhost "$name" | sed 's/.*NOT match.*/refused/; s/.*does match.*/accepted/')"
	echo "Python: $(python3 python.py "$certificate" "$port" "$name")"
	echo "Node.js: $(node node.js "$certificate" "$port" "$name")"
	echo "rustls: $(target/debug/finding "$certificate" "$name")"
	kill "$pid"
	wait "$pid" 2>/dev/null || true
	pid=
}
failed=0
expect() {
	local suffix=$1 wanted=$2
	echo "-- the certificate for *.$suffix and the name etcd-0.$suffix"
	judge "$suffix" >got
	cat got
	if [ "$(cat got)" != "$wanted" ]; then
		printf 'CHANGED, it was:\n%s\n' "$wanted"
		failed=1
	fi
}
expect etcd-headless 'Go: accepted
gRPC C core: accepted
openssl x509 -checkhost: refused
Python: refused
Node.js: refused
rustls: refused'
expect etcd-headless.default 'Go: accepted
gRPC C core: accepted
openssl x509 -checkhost: accepted
Python: accepted
Node.js: accepted
rustls: accepted'

if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
