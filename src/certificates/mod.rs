//! Which certificates exist and which have to be issued, decided from the contents of Secrets. Pure, and shared by every kind of
//! object that has certificates.

pub mod authorities;
pub mod authority_secret;
pub mod issuers;
pub mod leaf;
pub mod lifetimes;
pub mod requests;
pub mod secret;
pub mod state;
pub mod transition;
