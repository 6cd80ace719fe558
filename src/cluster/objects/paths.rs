//! Paths in the container of etcd.

/// Where the member's Secret is mounted.
pub const TLS_DIR: &str = "/etc/etcd/tls";
/// Where the member's volume is mounted.
pub const DATA_DIR: &str = "/var/lib/etcd";
/// The program, in the image.
pub const PROGRAM: &str = "/usr/local/bin/etcd";
