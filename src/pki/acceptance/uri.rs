//! Which URIs Go reads in a certificate (`net/url` and `crypto/x509` of Go 1.26).

use std::net::Ipv6Addr;

/// Whether Go reads a URI, and its host is a domain as `crypto/x509` wants it.
pub(super) fn is_readable(uri: &str) -> bool {
    if uri.bytes().any(|octet| octet < b' ' || octet == 0x7f || octet >= 0x80) {
        return false;
    }
    let (uri, fragment) = uri.split_once('#').unwrap_or((uri, ""));
    let Some((scheme, rest)) = scheme(uri) else { return false };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !is_escaped(fragment) {
        return false;
    }
    if !rest.starts_with('/') {
        // What follows a scheme is not looked at; without one it must not look like one.
        let first = rest.split('/').next().unwrap_or_default();
        return !scheme.is_empty() || !first.contains(':') && is_escaped(rest);
    }
    let Some(after) = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///")) else {
        return is_escaped(rest);
    };
    let (authority, path) = after.find('/').map_or((after, ""), |at| after.split_at(at));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    is_user(user) && is_host(scheme, host) && is_domain(host, false) && is_escaped(path)
}

/// Whether a text is a domain, or the end of one with a leading dot if it is a constraint.
pub(super) fn is_domain(text: &str, constraint: bool) -> bool {
    if text.is_empty() {
        return true;
    }
    let labels = text.strip_prefix('.').filter(|_| constraint).unwrap_or(text);
    labels.split('.').all(|label| !label.is_empty() && label.bytes().all(|octet| (33..=126).contains(&octet)))
}

/// The scheme and what follows it. The scheme may be missing.
fn scheme(uri: &str) -> Option<(&str, &str)> {
    for (at, octet) in uri.bytes().enumerate() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return Some((&uri[..at], &uri[at + 1..])),
            _ => return Some(("", uri)),
        }
    }
    Some(("", uri))
}

/// Whether every percent sign is followed by two hexadecimal digits.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
}

fn is_user(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&octet)) && is_escaped(text)
}

fn is_host(scheme: &str, host: &str) -> bool {
    let is_port = |text: &str| {
        text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|octet| octet.is_ascii_digit()))
    };
    match host.rfind('[') {
        Some(0) => {
            let Some(end) = host.rfind(']') else { return false };
            let inner = host[1..end].split("%25").next().unwrap_or_default();
            return is_port(&host[end + 1..]) && inner.parse::<Ipv6Addr>().is_ok();
        }
        Some(_) => return false,
        None => {}
    }
    let strict = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    let colon = if strict { host.find(':') } else { host.rfind(':') };
    if colon.is_some_and(|at| !is_port(&host[at..])) {
        return false;
    }
    // Only octets beyond ASCII may be written with a percent sign.
    let beyond = |rest: &str| rest.starts_with("25") || rest.starts_with(|digit: char| !matches!(digit, '0'..='7'));
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~%".contains(&octet);
    host.bytes().all(allowed) && is_escaped(host) && host.split('%').skip(1).all(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_as_go_reads_them() {
        for good in [
            "",
            "*",
            "http://pki.example/ca.crt",
            "ldap:///CN=x",
            "spiffe://cluster.local/ns/a",
            "urn:uuid:1",
            "a/b:c",
            "//host/p",
            "https://u:p@h:443/x?q=%zz#f",
            "http://[::1]:80/",
            "postgres://a:1,b:2/",
            "http://a%ffb/",
        ] {
            assert!(is_readable(good), "{good}");
        }
        for bad in [
            "http://[pki",
            "http://a:b/",
            ":x",
            "a:b:c/é",
            "a\u{7f}",
            "b:/%zz",
            "http://h/%1",
            "http://a..b/",
            "http://a./",
            "1:2",
            "http://a:1:2/",
            "http://[1.2.3.4]/",
            "http://a%41/",
            "http://a b/",
            "http://x/#%",
            "http://us er@h/",
        ] {
            assert!(!is_readable(bad), "{bad}");
        }
        assert!(is_domain(".svc", true) && !is_domain(".svc", false) && !is_domain("svc.", true) && is_domain("*.svc", true));
    }
}
