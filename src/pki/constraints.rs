//! Name constraints: for which names an authority, and those below it, may sign (RFC 5280, 4.2.1.10).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use x509_parser::{certificate::X509Certificate, oid_registry::OID_X509_EXT_NAME_CONSTRAINTS};

use super::{
    certificate::Certificate,
    der::{Element, element, elements, sequence},
};

/// The tags of names in constraints and in alternative names.
pub(super) mod tag {
    /// An email address.
    pub const EMAIL: u8 = 0x81;
    /// A DNS name.
    pub const DNS: u8 = 0x82;
    /// A distinguished name.
    pub const DIRECTORY: u8 = 0xa4;
    /// A URI.
    pub const URI: u8 = 0x86;
    /// An address, in a constraint with its mask.
    pub const IP: u8 = 0x87;
}

/// A name that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Its kind: one of [`tag`], or another tag.
    pub(super) tag: u8,
    /// Its content; that of a distinguished name in the form of [`canonical`].
    pub(super) content: Vec<u8>,
}

impl Name {
    /// The distinguished name that consists of a common name.
    pub(super) fn common(name: &str) -> Self {
        Self { tag: tag::DIRECTORY, content: part([attribute_form(&[0x55, 4, 3], name.as_bytes())].into()) }
    }

    /// A DNS name.
    pub(super) fn dns(name: &str) -> Self {
        Self { tag: tag::DNS, content: name.into() }
    }

    /// An address.
    pub(super) fn ip(address: IpAddr) -> Self {
        let content = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Self { tag: tag::IP, content }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Subtree { tag: self.tag, base: &self.content, has_limits: false, is_limited: false }.fmt(f)
    }
}

/// The name constraints of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameConstraints<'a> {
    permitted: Vec<Subtree<'a>>,
    excluded: Vec<Subtree<'a>>,
}

/// All names below a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subtree<'a> {
    /// The kind of name: one of [`tag`], or another tag.
    pub(super) tag: u8,
    /// The name.
    pub(super) base: &'a [u8],
    /// Whether the fields `minimum` or `maximum` are present.
    pub(super) has_limits: bool,
    /// Whether they differ from their default. No verifier supports that.
    is_limited: bool,
}

impl<'a> NameConstraints<'a> {
    /// The constraints of a certificate, if it has any and they have the right form.
    pub(super) fn of(read: &X509Certificate<'a>) -> Option<Self> {
        let extension = read.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_NAME_CONSTRAINTS)?;
        let trees = sequence(extension.value)?;
        let list = |tag: u8| match trees.iter().find(|tree| tree.0 == tag) {
            Some((_, content)) => elements(content)?.into_iter().map(Subtree::of).collect(),
            None => Some(vec![]),
        };
        Some(Self { permitted: list(0xa0)?, excluded: list(0xa1)? })
    }

    /// Whether names of a kind are constrained.
    pub(super) fn has(&self, tag: u8) -> bool {
        self.subtrees().any(|subtree| subtree.tag == tag)
    }

    /// All subtrees.
    pub(super) fn subtrees(&self) -> impl Iterator<Item = &Subtree<'a>> {
        self.permitted.iter().chain(&self.excluded)
    }

    /// Why a name is not permitted: what follows "the authority". `None` if it is.
    pub(super) fn refusal(&self, name: &Name) -> Option<String> {
        let permitted: Vec<_> = self.permitted.iter().filter(|subtree| subtree.tag == name.tag).collect();
        let excluded: Vec<_> = self.excluded.iter().filter(|subtree| subtree.tag == name.tag).collect();
        if let Some(limited) = permitted.iter().chain(&excluded).find(|subtree| subtree.is_limited) {
            return Some(format!("limits {limited} by minimum or maximum, which no verifier supports"));
        }
        if let Some(subtree) = excluded.iter().find(|subtree| subtree.contains(name) || subtree.may_contain(name)) {
            return Some(format!("may not sign for {subtree}, and so not for {name}"));
        }
        if permitted.is_empty() || permitted.iter().any(|subtree| subtree.contains(name)) {
            return None;
        }
        let permitted: Vec<_> = permitted.iter().map(ToString::to_string).collect();
        Some(format!("may sign for {} only, and so not for {name}", permitted.join(", ")))
    }
}

/// Why an authority may not sign for one of these names: what follows "the authority". `None` if it may.
pub(super) fn refusal(authority: &Certificate, mut names: impl Iterator<Item = Name>) -> Option<String> {
    let read = authority.has_name_constraints().then(|| authority.read().ok())??;
    let constraints = NameConstraints::of(&read)?;
    names.find_map(|name| constraints.refusal(&name))
}

impl<'a> Subtree<'a> {
    /// Reads a `GeneralSubtree`.
    fn of((tag, content): Element<'a>) -> Option<Self> {
        let parts = elements(content).filter(|_| tag == 0x30)?;
        let (base, limits) = parts.split_first()?;
        let is_limited = limits.iter().any(|(tag, value)| *tag != 0x80 || value.iter().any(|octet| *octet != 0));
        Some(Self { tag: base.0, base: base.1, has_limits: !limits.is_empty(), is_limited })
    }

    /// Whether a name of its kind is below it.
    fn contains(&self, name: &Name) -> bool {
        let (name, base) = (name.content.as_slice(), self.base);
        match self.tag {
            tag::DNS => has_suffix(name, base),
            tag::IP => {
                let (address, mask) = base.split_at(base.len() / 2);
                name.len() == address.len() && (0..name.len()).all(|at| (name[at] ^ address[at]) & mask[at] == 0)
            }
            tag::EMAIL => email(name, base),
            tag::URI => host(name).is_some_and(|host| is_host(host, base)),
            tag::DIRECTORY => canonical(base).is_some_and(|base| name.starts_with(&base)),
            // What no verifier implements refuses everything.
            _ => false,
        }
    }

    /// Whether a wildcard may stand for a name below it.
    fn may_contain(&self, name: &Name) -> bool {
        let parent = |text: &[u8]| text.iter().position(|octet| *octet == b'.').map(|dot| text[dot..].to_ascii_lowercase());
        self.tag == tag::DNS && name.content.starts_with(b"*.") && parent(self.base) == parent(&name.content)
    }
}

impl fmt::Display for Subtree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.base);
        match self.tag {
            tag::DNS => write!(f, "DNS:{text}"),
            tag::EMAIL => write!(f, "email:{text}"),
            tag::URI => write!(f, "URI:{text}"),
            tag::IP => {
                let (address, mask) = if matches!(self.base.len(), 4 | 16) {
                    (self.base, &[][..])
                } else {
                    self.base.split_at(self.base.len() / 2)
                };
                let bits: u32 = mask.iter().map(|octet| octet.count_ones()).sum();
                let prefix = if mask.is_empty() { String::new() } else { format!("/{bits}") };
                write!(f, "IP:{}{prefix}", shown(address))
            }
            tag::DIRECTORY => f.write_str("a distinguished name (dirName)"),
            _ => f.write_str("names of a kind that is not supported"),
        }
    }
}

fn shown(address: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(address).map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = <[u8; 16]>::try_from(address).map(|octets| Ipv6Addr::from(octets).to_string());
    v4.or(v6).unwrap_or_else(|_| format!("{address:?}"))
}

/// Whether a DNS name is the base, or ends with it after a dot. A base that begins with a dot has only names below it.
fn has_suffix(name: &[u8], base: &[u8]) -> bool {
    let Some(begin) = name.len().checked_sub(base.len()) else { return false };
    let (above, end) = name.split_at(begin);
    let at_label = above.is_empty() || base.is_empty() || base[0] == b'.' || above.ends_with(b".");
    at_label && end.eq_ignore_ascii_case(base)
}

/// Whether an email address is the base, or in its domain.
fn email(name: &[u8], base: &[u8]) -> bool {
    let split =
        |text: &[u8]| text.iter().rposition(|octet| *octet == b'@').map(|at| (text[..at].to_vec(), text[at + 1..].to_vec()));
    let Some((local, domain)) = split(name) else { return false };
    match split(base) {
        Some((base_local, base_domain)) => {
            (base_local.is_empty() || local == base_local) && domain.eq_ignore_ascii_case(&base_domain)
        }
        None => is_host(&domain, base),
    }
}

/// The host of a URI.
fn host(uri: &[u8]) -> Option<&[u8]> {
    let scheme = uri.windows(3).position(|octets| octets == b"://")?;
    let rest = &uri[scheme + 3..];
    let end = rest.iter().position(|octet| b":/".contains(octet)).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|host| !host.is_empty())
}

/// Whether a host is the base, or below it if it begins with a dot.
fn is_host(host: &[u8], base: &[u8]) -> bool {
    if base.first() == Some(&b'.') { host.len() > base.len() && has_suffix(host, base) } else { host.eq_ignore_ascii_case(base) }
}

/// A distinguished name in the form in which they are compared: each part with its values in lower case, without surrounding
/// and repeated spaces. `None` if it is not readable.
pub(super) fn canonical(name: &[u8]) -> Option<Vec<u8>> {
    let ((_, parts), _) = element(name)?;
    let attribute = |(_, content): Element<'_>| match elements(content)?[..] {
        [(_, kind), (_, value)] => Some(attribute_form(kind, value)),
        _ => None,
    };
    let set = |(_, content)| Some(part(elements(content)?.into_iter().map(attribute).collect::<Option<_>>()?));
    Some(elements(parts)?.into_iter().map(set).collect::<Option<Vec<_>>>()?.concat())
}

/// An attribute of a distinguished name in that form.
fn attribute_form(kind: &[u8], value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    [kind, b"=", words.join(" ").as_bytes(), b"\n"].concat()
}

/// A part of a distinguished name in that form.
fn part(mut attributes: Vec<Vec<u8>>) -> Vec<u8> {
    attributes.sort_unstable();
    [b"[", attributes.concat().as_slice()].concat()
}
