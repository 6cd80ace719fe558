//! etcd-warden: a Kubernetes operator for secured etcd clusters.
//!
//! There is one way through the code, for each object and in each pass:
//!
//! ```text
//!             watches, members' answers                                 server-side apply, status, events
//!                        |                                                            ^
//! trigger --> observe ------> validate ------> plan ---------> act ---------------> report --> next trigger
//!             Observed        ValidatedCluster Plan with       Outcome: what was      status     or next_check
//!             not pure        pure             one Step, pure  done; not pure       pure
//! ```
//!
//! [`operator`] runs a pass when something that [`cache`] watches has changed, or when the last pass asked for it. The stages
//! of an `EtcdCluster` are in [`cluster`], those of an `EtcdUser` in [`user`]; both take their types from [`api`], their names
//! from [`names`] and the decisions about certificates from [`pki`]. Members are asked through [`etcd`], keys are made in
//! [`issuing`] alone, and objects are applied in [`k8s`] alone. [`leader`] sees to it that one operator acts.
//!
//! What is decided is decided by the pure stages: they know no client, no runtime and no clock. State is in Kubernetes, so the
//! operator may die between any two lines, and a second one that acts for a moment does no harm. ARCHITECTURE.md has the rest.

pub mod api;
pub mod backoff;
pub mod cache;
pub mod certificates;
pub mod cluster;
pub mod context;
pub mod controllers;
pub mod digest;
pub mod etcd;
pub mod http;
pub mod identity;
pub mod ids;
pub mod issuing;
pub mod kubernetes;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod pki;
pub mod reporting;
pub mod telemetry;
pub mod user;
