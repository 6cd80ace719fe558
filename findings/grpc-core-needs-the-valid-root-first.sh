#!/bin/bash
# A root that is renewed with the same name and key is in a trust bundle twice for a while. gRPC's C core, and so grpcio for Python, looks only
# at the first of the two: if that is the expired one it refuses a server that Go, OpenSSL, Node.js and its own other order accept.
set -euo pipefail
grpc_version=1.85.3
cryptography_version=50.0.2

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

mkdir go python
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

// serve: prints its port and serves HTTP/2. dial PORT BUNDLE: whether a handshake succeeds.
func main() {
	if os.Args[1] == "serve" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		panic(http.ServeTLS(listener, http.NotFoundHandler(), "server.crt", "server.key"))
	}
	pem, err := os.ReadFile(os.Args[3])
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if _, err := tls.Dial("tcp", "127.0.0.1:"+os.Args[2], &tls.Config{RootCAs: roots, ServerName: "localhost"}); err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("accepted")
}
GO
cat >make.py <<'PY'
from datetime import datetime, timedelta, timezone
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

now = datetime.now(timezone.utc)
root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
root_name, leaf_name = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("root", "server"))

def certificate(name, key, begin, end, extensions):
    builder = x509.CertificateBuilder(root_name, name, key.public_key(), x509.random_serial_number(),
                                      now + timedelta(days=begin), now + timedelta(days=end))
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

def root(begin, end):
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return certificate(root_name, root_key, begin, end, [
        (x509.BasicConstraints(True, None), True), (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), False)])

def write(path, *parts):
    with open(path, "wb") as file:
        file.write(b"".join(parts))

expired, renewed = root(-400, -1), root(-2, 400)
write("expired-first.crt", expired, renewed)
write("renewed-first.crt", renewed, expired)
write("server.crt", certificate(leaf_name, leaf_key, -1, 30, [
    (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),
    (x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)]))
write("server.key", leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
PY
(
	cd go
	go mod init finding
	go build -o ../tls .
	cd ..
	python3 -m pip install --quiet --target python "grpcio==$grpc_version" "cryptography==$cryptography_version"
	PYTHONPATH=python python3 make.py
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
python3 -c 'import ssl, sys; print("Python", sys.version.split()[0], "with", ssl.OPENSSL_VERSION)'
echo "Node.js $(node --version), grpcio $grpc_version, $(go env GOVERSION)"

./tls serve >port 2>server.log &
pid=$!
until [ -s port ]; do sleep 0.1; done
port=$(cat port)

cat >python.py <<'PY'
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="localhost"):
            print("accepted")
except ssl.SSLCertVerificationError as error:
    print("refused:", error.verify_message)
PY
cat >node.js <<'JS'
const [port, bundle] = process.argv.slice(2);
const socket = require('tls').connect({ host: '127.0.0.1', port, servername: 'localhost', ca: require('fs').readFileSync(bundle) }, () => {
  console.log('accepted');
  socket.end();
}).on('error', error => console.log('refused:', error.message));
JS
cat >grpc_core.py <<'PY'
import sys, grpc
channel = grpc.secure_channel(f"127.0.0.1:{sys.argv[1]}", grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read()),
                              [("grpc.ssl_target_name_override", "localhost")])
try:
    channel.unary_unary("/finding/None")(b"", timeout=10)
except grpc.RpcError as error:
    # The server has no such method; what counts is that the handshake succeeded.
    is_refused = error.code() == grpc.StatusCode.UNAVAILABLE
    why = "certificate has expired" if "certificate has expired" in error.details() else error.details()
    print(f"refused: {why}" if is_refused else "accepted")
PY
failed=0
for bundle in renewed-first expired-first; do
	echo "-- $bundle"
	{
		echo "Go: $(./tls dial "$port" $bundle.crt)"
		echo "Python: $(python3 python.py "$port" $bundle.crt)"
		echo "Node.js: $(node node.js "$port" $bundle.crt)"
		echo "gRPC C core: $(GRPC_VERBOSITY=NONE PYTHONPATH=python python3 grpc_core.py "$port" $bundle.crt)"
	} | tee got
	printf 'Go: accepted\nPython: accepted\nNode.js: accepted\n' >wanted
	case $bundle in
	renewed-first) echo "gRPC C core: accepted" >>wanted ;;
	expired-first) echo "gRPC C core: refused: certificate has expired" >>wanted ;;
	esac
	if ! cmp --silent got wanted; then
		echo "CHANGED, it was:"
		cat wanted
		failed=1
	fi
done

if [ "$failed" = 0 ]; then echo "as stated"; else echo "the behaviour has changed"; fi
[ "$failed" = 0 ]
