//! The space that members' databases have left.

/// Whether a database of this size may grow by at least a twentieth of the quota; both are in bytes. etcd compares its size on disk, free pages
/// included, and raises the alarm NOSPACE with the first write that does not fit (`server/etcdserver/apply`, `quotaApplierV3`).
pub fn has_room(database: i64, quota: i64) -> bool {
    database <= quota - quota / 20
}
