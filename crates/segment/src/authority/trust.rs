//! Which roots a box believes, and its judgement of a certificate.

use std::fmt;
use std::sync::Arc;

use base::limits::{CERTIFICATE_BYTES_MAX, ROOTS_MAX};
use base::{BoxId, CloudId, Digest, Timestamp};
use data_encoding::BASE64;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};
use webpki::aws_lc_rs::ED25519;
use webpki::{EndEntityCert, KeyUsage};

use super::subject::cloud_uri;
use super::{Subject, as_certificate, unix_time};
use crate::identity::SPKI_HEAD;

/// A root certificate of a cloud.
#[derive(Clone)]
pub struct Root {
    cloud: CloudId,
    der: Arc<[u8]>,
    anchor: TrustAnchor<'static>,
}

/// Why roots aren't taken into, or out of, a box's trust.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    #[error("these bytes are no root certificate of the cloud {cloud}")]
    Root { cloud: CloudId },
    #[error("the cloud {cloud} has {ROOTS_MAX} roots already: drop the old one before another is added")]
    Full { cloud: CloudId },
    #[error("the root {fingerprint} is the only one that this box believes, and stays")]
    Last { fingerprint: Digest },
    #[error("this box believes no root {fingerprint}")]
    Absent { fingerprint: Digest },
}

/// Why a certificate isn't believed.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    #[error("it is no certificate")]
    Malformed(#[source] webpki::Error),
    #[error(
        "it has {bytes} bytes, or others beside it: a box shows one certificate of {CERTIFICATE_BYTES_MAX} bytes at the most"
    )]
    Size { bytes: usize },
    #[error("no root of the cloud {cloud} stands for it at {now}")]
    Chain {
        cloud: CloudId,
        now: Timestamp,
        #[source]
        source: webpki::Error,
    },
    #[error("it names no box of the cloud {cloud}")]
    Name { cloud: CloudId },
    #[error("it names the box {id}, and its key is another's")]
    Key { id: BoxId },
    #[error("it is the box {found}, and {wanted} was wanted")]
    Other { wanted: BoxId, found: BoxId },
    #[error("the box {id} is not admitted with the roles of its certificate: evicted, or not enrolled with them")]
    NotAdmitted { id: BoxId },
}

impl Root {
    /// Reads a root and holds it to the cloud that it is said to be of.
    pub fn of_cloud(cloud: CloudId, der: &[u8]) -> Result<Self, TrustError> {
        let refused = || TrustError::Root { cloud };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(refused());
        }
        let certificate = as_certificate(der);
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| refused())?;
        let end = EndEntityCert::try_from(&certificate).map_err(|_| refused())?;
        let mut names = end.valid_uri_names();
        if names.next() != Some(&cloud_uri(cloud)) || names.next().is_some() {
            return Err(refused());
        }
        Ok(Self { cloud, der: der.into(), anchor: anchor.to_owned() })
    }

    pub fn cloud(&self) -> CloudId {
        self.cloud
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What an order names it by: BLAKE3 of its DER.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.der)
    }

    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        // The anchor's key info lacks the sequence around it.
        key.len() == BoxId::BYTES && self.anchor.subject_public_key_info.as_ref() == [&SPKI_HEAD[2..], key].concat()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({}, {})", self.cloud, self.fingerprint().short())
    }
}

/// The roots of one cloud that a box believes: one, or two while the cloud rolls over. JSON when it travels or is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Trust {
    cloud: CloudId,
    roots: Vec<Root>,
}

/// How a trust is written.
#[derive(Serialize, Deserialize)]
struct Written {
    cloud: CloudId,
    roots: Vec<String>,
}

/// Text that is no trust.
#[derive(Debug, thiserror::Error)]
enum WrittenError {
    #[error("a trust has 1 to {ROOTS_MAX} roots, not {0}")]
    Count(usize),
    #[error("a root is not base64")]
    Text,
    #[error(transparent)]
    Root(#[from] TrustError),
}

impl TryFrom<Written> for Trust {
    type Error = WrittenError;

    fn try_from(written: Written) -> Result<Self, WrittenError> {
        if !(1..=ROOTS_MAX).contains(&written.roots.len()) {
            return Err(WrittenError::Count(written.roots.len()));
        }
        let read = |text: &String| -> Result<Root, WrittenError> {
            let der = BASE64.decode(text.as_bytes()).map_err(|_| WrittenError::Text)?;
            Ok(Root::of_cloud(written.cloud, &der)?)
        };
        Ok(Self { cloud: written.cloud, roots: written.roots.iter().map(read).collect::<Result<_, _>>()? })
    }
}

impl From<Trust> for Written {
    fn from(trust: Trust) -> Self {
        Self { cloud: trust.cloud, roots: trust.roots.iter().map(|root| BASE64.encode(&root.der)).collect() }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.roots).finish()
    }
}

impl Trust {
    /// Believes one root.
    pub fn new(root: Root) -> Self {
        Self { cloud: root.cloud, roots: vec![root] }
    }

    pub fn cloud(&self) -> CloudId {
        self.cloud
    }

    /// BLAKE3 of each root, the oldest first.
    pub fn fingerprints(&self) -> impl Iterator<Item = Digest> + '_ {
        self.roots.iter().map(Root::fingerprint)
    }

    /// Believes `root` as well. One that is believed already changes nothing.
    pub fn add(&mut self, root: Root) -> Result<(), TrustError> {
        if root.cloud != self.cloud {
            return Err(TrustError::Root { cloud: self.cloud });
        }
        if self.roots.iter().any(|known| known.der == root.der) {
            return Ok(());
        }
        if self.roots.len() == ROOTS_MAX {
            return Err(TrustError::Full { cloud: self.cloud });
        }
        self.roots.push(root);
        Ok(())
    }

    /// Believes a root no more. The last one stays: a box that believes none could never be told anything again.
    pub fn forget(&mut self, fingerprint: Digest) -> Result<(), TrustError> {
        let at = self.roots.iter().position(|root| root.fingerprint() == fingerprint);
        let at = at.ok_or(TrustError::Absent { fingerprint })?;
        if self.roots.len() == 1 {
            return Err(TrustError::Last { fingerprint });
        }
        self.roots.remove(at);
        Ok(())
    }

    /// Whom `der` names, if a root of ours stands for it at `now` and its key is that of the box it names. That the key
    /// is held, TLS proves; that the box is still admitted, the record says.
    pub fn judge(&self, der: &[u8], now: Timestamp) -> Result<Subject, Distrust> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(Distrust::Size { bytes: der.len() });
        }
        let certificate: CertificateDer<'_> = as_certificate(der);
        let end = EndEntityCert::try_from(&certificate).map_err(Distrust::Malformed)?;
        let anchors: Vec<_> = self.roots.iter().map(|root| root.anchor.clone()).collect();
        let time = unix_time(now);
        end.verify_for_usage(&[ED25519], &anchors, &[], time, KeyUsage::client_auth(), None, None)
            .map_err(|source| Distrust::Chain { cloud: self.cloud, now, source })?;
        let unnamed = || Distrust::Name { cloud: self.cloud };
        let mut names = end.valid_uri_names();
        let subject = names.next().and_then(Subject::parse).ok_or_else(unnamed)?;
        if names.next().is_some() || subject.cloud != self.cloud {
            return Err(unnamed());
        }
        if end.subject_public_key_info().as_ref() != [&SPKI_HEAD[..], &subject.id.0].concat() {
            return Err(Distrust::Key { id: subject.id });
        }
        Ok(subject)
    }
}
