#!/bin/bash
# cert-manager's CA issuer, given the certificate of a root before and after its renewal (same name, same key), keeps one of them as ca.crt.
# Which one is decided by the order of their bytes, so that about every second time it is the one that soon expires. There is no error, and
# the other one appears nowhere.
set -euo pipefail
cert_manager_version=v1.21.2

tmp=$(mktemp -d)
finish() {
	rm -rf "$tmp"
}
trap finish EXIT
cd "$tmp"

cat >main.go <<'GO'
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/cert-manager/cert-manager/pkg/util/pki"
)

const pairs = 64

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)))
}

func root(key *ecdsa.PrivateKey, from, to time.Time) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "etcd root"}, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return must(x509.ParseCertificate(der))
}

func main() {
	now := time.Now()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leafKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	kept := map[string]int{}
	firstByBytes := 0
	for range pairs {
		old := root(key, now.AddDate(-5, 0, 0), now.AddDate(0, 0, 7))
		renewed := root(key, now, now.AddDate(5, 0, 0))
		leaf := &x509.Certificate{
			SerialNumber: serial(), PublicKey: &leafKey.PublicKey, Subject: pkix.Name{CommonName: "member"},
			DNSNames: []string{"etcd"}, NotBefore: now, NotAfter: now.AddDate(0, 3, 0),
		}
		// As the CA issuer does with a Secret whose tls.crt is the renewed root and whose ca.crt is the old one.
		signed := must(pki.SignCSRTemplate([]*x509.Certificate{renewed, old}, key, leaf))
		authorities := must(pki.DecodeX509CertificateChainBytes(signed.CAPEM))
		chain := must(pki.DecodeX509CertificateChainBytes(signed.ChainPEM))
		if len(authorities) != 1 || len(chain) != 1 {
			fmt.Printf("ca.crt with %d and tls.crt with %d certificates\n", len(authorities), len(chain))
			os.Exit(1)
		}
		switch ca := authorities[0]; {
		case ca.Equal(old):
			kept["old"]++
		case ca.Equal(renewed):
			kept["renewed"]++
		}
		if authorities[0].Equal(old) == (bytes.Compare(old.Raw, renewed.Raw) < 0) {
			firstByBytes++
		}
	}
	fmt.Printf("of %d pairs of roots, ca.crt was the old one (7 days left) %d times and the renewed one (5 years left) %d times\n",
		pairs, kept["old"], kept["renewed"])
	fmt.Printf("it was the one that comes first in byte order %d times\n", firstByBytes)
	if kept["old"] == 0 || kept["renewed"] == 0 || firstByBytes != pairs {
		os.Exit(1)
	}
}
GO
(
	go mod init finding
	go get "github.com/cert-manager/cert-manager@$cert_manager_version"
	go mod tidy
	go build -o finding .
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
echo "cert-manager $cert_manager_version, $(go env GOVERSION)"
if ./finding; then
	echo "as stated"
else
	echo "the behaviour has changed"
	false
fi
