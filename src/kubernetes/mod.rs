//! Kubernetes' own vocabulary: objects as they are read and applied, who owns them, and what their states mean. Nothing here knows
//! what an etcd cluster is.

pub mod apply;
pub mod cached;
mod covers;
pub mod desired;
pub mod error;
pub mod object;
pub mod ownership;
pub mod pod;
pub mod quantity;
pub mod secret;
