package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc/credentials"
)

// secret is the directory where the Secret of an EtcdUser is mounted. As gRPC credentials it reads the files at every
// handshake, so that a long-running process uses renewed certificates and follows CA rotations. Open connections are not
// affected by either.
type secret string

// ClientHandshake implements credentials.TransportCredentials.
func (s secret) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := s.config()
	if err != nil {
		return nil, nil, err // gRPC retries with backoff.
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (s secret) config() (*tls.Config, error) {
	// The kubelet replaces all files of a Secret at once, by replacing the link ..data. It is resolved first, so that
	// certificate and key are of the same version. A directory of plain files has no such link.
	dir, err := filepath.EvalSymlinks(filepath.Join(string(s), "..data"))
	if errors.Is(err, os.ErrNotExist) {
		dir, err = string(s), nil
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.crt holds no certificate")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		// Certificates would not be sent at all if the server does not list their issuer, and the handshake would fail
		// without a clear error.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (s secret) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are the credentials of a client")
}

// Info implements credentials.TransportCredentials.
func (s secret) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone implements credentials.TransportCredentials.
func (s secret) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials. The name is always that of the endpoint.
func (s secret) OverrideServerName(string) error { return errors.New("not supported") }
