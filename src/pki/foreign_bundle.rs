//! Certificates as other programs write them, with other blocks and text around them.

use super::{
    acceptance::why_unreadable,
    certificate::Certificate,
    error::PkiError,
    pem::{self, Block},
};

/// What a text of another program contains.
#[derive(Default)]
pub(super) struct ForeignBundle {
    /// The certificates that can be read, in their order.
    pub certificates: Vec<Certificate>,
    /// Why the others cannot be read: which they are, and what mends them.
    pub unreadable: Vec<String>,
    /// The labels of other blocks, which do not matter.
    pub others: Vec<String>,
}

impl ForeignBundle {
    /// Reads a text that may have other text around its blocks. `file` is its name.
    ///
    /// # Errors
    /// Why it cannot be read, and the command that mends it. A private key in it is an error: it may be there by mistake.
    pub fn read(file: &str, text: &[u8]) -> Result<Self, PkiError> {
        let mut all = Self::default();
        for block in pem::foreign_blocks(text)? {
            all.add(file, block)?;
        }
        Ok(all)
    }

    fn add(&mut self, file: &str, block: Block) -> Result<(), PkiError> {
        let label = block.label;
        let mend = if label.ends_with(pem::PRIVATE_KEY) {
            format!(
                "a private key ({label}). This leaves it out: openssl crl2pkcs7 -nocrl -certfile {file} | openssl pkcs7 -print_certs \
                 -out converted.crt"
            )
        } else if ["PKCS7", "CMS"].contains(&label.as_str()) {
            format!("{label}, as in a file .p7b. This converts it: openssl pkcs7 -print_certs -in {file} -out converted.crt")
        } else if ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"].contains(&label.as_str()) {
            format!("{label}. This converts it: openssl x509 -in {file} -out converted.crt")
        } else {
            self.add_harmless(file, label, &block.der);
            return Ok(());
        };
        Err(PkiError::Label { expected: pem::CERTIFICATE, found: mend })
    }

    fn add_harmless(&mut self, file: &str, label: String, der: &[u8]) {
        if label != pem::CERTIFICATE {
            self.others.push(label);
            return;
        }
        match Certificate::from_der(der) {
            Ok(certificate) => self.certificates.push(certificate),
            Err(error) => {
                let place = self.certificates.len() + self.unreadable.len() + 1;
                let why = why_unreadable(der).unwrap_or_else(|| format!("cannot be read: {error}"));
                self.unreadable.push(format!("certificate {place} of {file} {why}"));
            }
        }
    }

    /// Its certificates, all of which must be readable.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn all(self) -> Result<Vec<Certificate>, PkiError> {
        match self.unreadable.into_iter().next() {
            None => Ok(self.certificates),
            Some(why) => Err(PkiError::Chain(why)),
        }
    }

    /// That there is no certificate in it.
    pub fn is_without(&self) -> PkiError {
        let others = self.others.join(", ");
        PkiError::Chain(match self.unreadable.first() {
            Some(why) => why.clone(),
            None if others.is_empty() => "there is no certificate".into(),
            None => format!("there is no certificate, but {others}"),
        })
    }
}
