// Command verify is asked by main.rs which certificates Go's crypto/x509 and crypto/tls accept. It reads one question a line from
// standard input and prints one answer a line: nothing if the certificate is accepted, otherwise the error.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// question is what a program in Go is given: the certificates of its trust bundle and those that its peer presents, the leaf
// first, with the leaf's private key in PEM. It is a client if it has a host to connect to, otherwise a server.
type question struct {
	Bundle    [][]byte
	Presented [][]byte
	Key       string
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
	block, _ := pem.Decode([]byte(q.Key))
	if block == nil {
		return errors.New("no private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	now := func() time.Time { return q.Now }
	presented := tls.Certificate{Certificate: q.Presented, PrivateKey: key}
	own, err := plain()
	if err != nil {
		return err
	}
	client := &tls.Config{RootCAs: pool(bundle), ServerName: q.Host, Time: now}
	server := &tls.Config{Certificates: []tls.Certificate{presented}}
	if q.Host == "" {
		client = &tls.Config{
			InsecureSkipVerify: true,
			// As etcd's clients and members do, it presents its certificate whatever authorities the server names.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &presented, nil },
		}
		server = &tls.Config{
			Certificates: []tls.Certificate{*own},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool(bundle),
			Time:         now,
		}
	}
	ofClient, ofServer := handshake(client, server)
	if q.Host == "" {
		return ofServer
	}
	return ofClient
}

// handshake returns the errors of both sides.
func handshake(client, server *tls.Config) (error, error) {
	here, there := net.Pipe()
	deadline := time.Now().Add(time.Minute)
	_, _ = here.SetDeadline(deadline), there.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		connection := tls.Server(there, server)
		err := connection.Handshake()
		if err == nil {
			// A client of TLS 1.3 is done before the server has verified its certificate.
			_, err = connection.Write([]byte{0})
		}
		there.Close()
		done <- err
	}()
	connection := tls.Client(here, client)
	err := connection.Handshake()
	if err == nil {
		_, _ = connection.Read([]byte{0})
	}
	here.Close()
	return err, <-done
}

var plainCertificate *tls.Certificate

// plain is the certificate of a server that is not verified.
func plain() (*tls.Certificate, error) {
	if plainCertificate != nil {
		return plainCertificate, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	plainCertificate = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return plainCertificate, nil
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
