//! The operator against a real kube-apiserver, as it is in production but for what runs pods: there is no kubelet and no
//! controller-manager, so no pod ever starts, nothing is collected as garbage and no namespace ever goes away. That is enough
//! to see every request that the operator makes and what the API server answers to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admission;
mod authorities;
mod foreign;
mod founding;
mod issuers;
mod killed;
mod leader;
mod leftovers;
mod rights;
mod secrecy;
mod server;
mod state;
mod tap;
mod two;
mod unreadable;
mod users;
mod world;
