//! Kubernetes' own vocabulary: how objects are read and applied, who owns them, and what their states mean. Nothing here is
//! specific to etcd.

pub mod apply;
pub mod cached;
pub mod covers;
pub mod desired;
pub mod error;
pub mod object;
pub mod ownership;
pub mod pod;
pub(crate) mod quantity;
pub mod resources;
pub mod secret;
