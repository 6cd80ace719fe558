module etcd-warden.dev/verify

go 1.26
