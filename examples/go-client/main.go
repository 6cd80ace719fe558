// A client of an EtcdCluster: it watches a key, writes it and reads it back, with the Secret of an EtcdUser alone.
//
//	go-client [DIRECTORY]
//
// DIRECTORY is where the Secret is mounted, /etc/etcd-tls by default. It holds tls.crt, tls.key, ca.crt and endpoints.
package main

import (
	"context"
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
		// Instead of TLS, which would be read once and for all.
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(secret(dir))},
		// A connection whose other end is gone is noticed within 15 seconds.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()

	// Created first, so that it sees the write below. WithRequireLeader ends it when the member it hangs on loses the others.
	changes := client.Watch(clientv3.WithRequireLeader(ctx), "greeting", clientv3.WithCreatedNotify())
	if _, err := next(ctx, changes); err != nil {
		return err
	}

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

	seen, err := next(ctx, changes)
	if err != nil {
		return err
	}
	for _, event := range seen.Events {
		fmt.Printf("watched %s %s = %s\n", event.Type, event.Kv.Key, event.Kv.Value)
	}
	return nil
}

// next waits for the watch's next response. A watch that has ended closes its channel, which reads as a response without
// an error of its own.
func next(ctx context.Context, changes clientv3.WatchChan) (clientv3.WatchResponse, error) {
	response, ok := <-changes
	switch {
	case response.Err() != nil:
		return response, fmt.Errorf("watch: %w", response.Err())
	case !ok:
		return response, fmt.Errorf("watch: ended: %w", context.Cause(ctx))
	}
	return response, nil
}
