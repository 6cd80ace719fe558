//! Trust domains.

use std::{
    fmt,
    ops::{Index, IndexMut},
};

/// A trust domain. The domains share no authority: a certificate of the peer domain gives full control over the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// Port 2379: the members' server certificates and all client certificates.
    Client,
    /// Port 2380: the certificates that members present to each other.
    Peer,
}

impl Domain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Peer];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }

    /// The domain of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|domain| domain.as_str() == text)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Peer,
            Self::Peer => Self::Client,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value for each domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerDomain<T> {
    /// The value of the client domain.
    pub client: T,
    /// The value of the peer domain.
    pub peer: T,
}

impl<T> PerDomain<T> {
    /// The results of `make` for each domain.
    pub fn from_fn(mut make: impl FnMut(Domain) -> T) -> Self {
        Self { client: make(Domain::Client), peer: make(Domain::Peer) }
    }

    /// References to both.
    pub fn as_ref(&self) -> PerDomain<&T> {
        PerDomain { client: &self.client, peer: &self.peer }
    }

    /// The results of `change` for each value.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerDomain<U> {
        PerDomain { client: change(self.client), peer: change(self.peer) }
    }

    /// Each with its domain, in the order of [`Domain::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Domain, &T)> {
        [(Domain::Client, &self.client), (Domain::Peer, &self.peer)].into_iter()
    }
}

impl<T> PerDomain<Option<T>> {
    /// Both values, if both exist.
    pub fn both(self) -> Option<PerDomain<T>> {
        Some(PerDomain { client: self.client?, peer: self.peer? })
    }
}

impl<T> Index<Domain> for PerDomain<T> {
    type Output = T;
    fn index(&self, domain: Domain) -> &T {
        match domain {
            Domain::Client => &self.client,
            Domain::Peer => &self.peer,
        }
    }
}

impl<T> IndexMut<Domain> for PerDomain<T> {
    fn index_mut(&mut self, domain: Domain) -> &mut T {
        match domain {
            Domain::Client => &mut self.client,
            Domain::Peer => &mut self.peer,
        }
    }
}
