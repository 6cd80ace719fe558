//! etcd-warden: a Kubernetes operator for secured etcd clusters.
//!
//! A pass over an object has the same stages for each kind of object:
//!
//! ```text
//!             watches, members' answers                                 server-side apply, status, events
//!                        |                                                            ^
//! trigger --> observe ------> validate ------> plan ---------> act ---------------> report --> next trigger
//!             Observed        ValidatedCluster Plan with       Outcome: what was      status     or next_check
//!             not pure        pure             one Step, pure  done; not pure       pure
//! ```
//!
//! [`controllers`] runs a pass when an object that [`cache`] watches has changed, or when the previous pass requested it. The
//! stages of an `EtcdCluster` are in [`cluster`], those of an `EtcdUser` in [`user`]; both use the types of [`api`], the names of
//! [`names`] and the decisions about certificates of [`certificates`] and [`pki`]. Members are queried through [`etcd`]. Only
//! [`issuing`] generates private keys, and only [`kubernetes`] applies objects. [`leader`] ensures that only one replica of the
//! operator acts.
//!
//! All decisions are made in pure stages, which use no client, no runtime and no clock. All state is in Kubernetes, so the
//! operator can be killed at any time, and a second replica that acts for a moment does no harm. ARCHITECTURE.md describes the
//! details.

pub mod api;
mod backoff;
pub mod cache;
pub mod certificates;
pub mod cluster;
mod context;
pub mod controllers;
mod digest;
pub mod etcd;
pub mod host;
pub mod http;
mod identity;
pub mod ids;
pub mod issuing;
pub mod kubernetes;
pub mod leader;
pub mod member_pod;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod pki;
mod reporting;
mod slots;
pub mod telemetry;
mod user;
