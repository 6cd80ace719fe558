// A client of an EtcdCluster: it writes a key, reads it back and watches it, using only the Secret of an EtcdUser.
//
//	go-client [DIRECTORY]
//
// DIRECTORY is where the Secret is mounted, /etc/etcd-tls by default. It holds tls.crt, tls.key, ca.crt and endpoints.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

func main() {
	dir := "/etc/etcd-tls"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, dir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir string) error {
	endpoints, err := os.ReadFile(filepath.Join(dir, "endpoints"))
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: strings.Split(strings.TrimSpace(string(endpoints)), ","),
		// Instead of the field TLS, which would be read only once.
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(secret(dir))},
		// A dead connection is detected within 15 seconds.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()

	put, err := client.Put(ctx, "greeting", "hello from Go")
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	fmt.Printf("put at revision %d\n", put.Header.Revision)

	got, err := client.Get(ctx, "greeting")
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	for _, kv := range got.Kvs {
		fmt.Printf("got %s = %s\n", kv.Key, kv.Value)
	}

	// The watch starts at the revision of the write, so that no event is missed. WithRequireLeader ends the watch when the
	// connected member has no leader.
	seen, ok := <-client.Watch(clientv3.WithRequireLeader(ctx), "greeting", clientv3.WithRev(put.Header.Revision))
	if err := seen.Err(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	if !ok {
		return errors.New("watch: ended before the write was received")
	}
	for _, event := range seen.Events {
		fmt.Printf("watched %s %s = %s\n", event.Type, event.Kv.Key, event.Kv.Value)
	}
	return nil
}
