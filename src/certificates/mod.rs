//! Which certificates exist and which have to be issued, decided from the contents of Secrets. Pure, and shared by every kind of
//! object that has certificates.

pub(crate) mod authorities;
pub mod authority_secret;
pub(crate) mod contents;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod issuers;
pub mod leaf;
pub(crate) mod lifetimes;
pub(crate) mod probes;
pub mod requests;
pub mod secret;
pub(crate) mod state;
pub mod transition;
