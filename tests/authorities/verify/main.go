// Command verify is asked by main.rs which certificates Go's crypto/x509 accepts. It reads one question a line from standard input
// and prints one answer a line: nothing if the certificate is accepted, otherwise the error.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// question is what a program in Go is given: the certificates of its trust bundle and those that its peer presents, the leaf
// first. It is a client if it has a host to connect to, otherwise a server.
type question struct {
	Bundle    [][]byte
	Presented [][]byte
	Host      string
	Now       time.Time
}

// parse reads certificates as etcd reads a bundle and crypto/tls a peer's certificates: all of them, or none.
func parse(all [][]byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for _, der := range all {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
	return certificates, nil
}

func pool(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool
}

func (q question) answer() error {
	bundle, err := parse(q.Bundle)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	presented, err := parse(q.Presented)
	if err != nil {
		return fmt.Errorf("presented: %w", err)
	}
	options := x509.VerifyOptions{
		Roots:         pool(bundle),
		Intermediates: pool(presented[1:]),
		CurrentTime:   q.Now,
		DNSName:       q.Host,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if q.Host == "" {
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	_, err = presented[0].Verify(options)
	return err
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	questions := json.NewDecoder(lines)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for questions.More() {
		var q question
		if err := questions.Decode(&q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		text := ""
		if err := q.answer(); err != nil {
			text = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Fprintln(out, text)
	}
}
