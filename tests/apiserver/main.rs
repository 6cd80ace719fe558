//! The operator against a real kube-apiserver, without kubelet and controller-manager: no pod ever starts, no garbage is
//! collected and no namespace is removed. That is enough to observe every request of the operator and the API server's answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admission;
mod authorities;
mod bootstrap;
mod edits;
mod foreign;
mod issuers;
mod killed;
mod leader;
mod leftovers;
mod namespace;
mod neighbors;
mod overwritten;
mod pending;
mod refusals;
mod requests;
mod resize;
mod rights;
mod secrecy;
mod server;
mod state;
mod tap;
mod two;
mod unreadable;
mod users;
#[path = "../webhook/mod.rs"]
mod webhook;
