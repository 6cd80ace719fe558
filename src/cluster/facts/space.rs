//! The space that members' databases have left.

use crate::etcd::MemberStatus;

/// Whether a member's database may grow by at least a twentieth of the quota. etcd compares its size on disk, free pages included, and raises
/// the alarm NOSPACE with the first write that does not fit (`server/etcdserver/apply`, `quotaApplierV3`).
pub fn has_room(status: &MemberStatus, quota: i64) -> bool {
    status.db_size <= quota - quota / 20
}
