//! What a box holds of its cloud: by what it is believed, whom it believes, and the keys that it works with.
//!
//! All of it lies under `node/` and goes when the box is wiped. It is kept as it came, readable by the box's user alone;
//! keys at rest are the disk's matter.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base::{BoxId, CloudId, Name, Role, Roles, Timestamp};
use data_encoding::BASE64;
use segment::authority::AuthorityError;
use segment::identity::write_private;
use segment::{Authority, Certificate, Trust};
use serde::{Deserialize, Serialize};
use state::CloudBox;

use super::disk::Setup;

const PAPERS: &str = "papers.json";
/// The key that seals what tenants entrust to the cloud.
const SEALING_KEY: &str = "box.key";
/// The authority for the cloud's own host names, which visitors' browsers trust.
const NAMES_KEY: &str = "authority.key";
const NAMES_CERTIFICATE: &str = "authority.pem";

/// Why a box's papers can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PapersError {
    #[error("`{}` can't be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` can't be read as a box's papers: reset the box, and firm it anew", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("what the cloud's box gave is not what this build understands: are both of one version?")]
    Foreign(#[source] serde_json::Error),
    #[error("what the cloud's box gave is {0}")]
    Unfit(&'static str),
    #[error("the cloud's authority")]
    Authority(#[source] AuthorityError),
}

/// By what the box is believed, and whom it believes.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Papers {
    pub(super) trust: Trust,
    pub(super) certificate: Certificate,
    /// The cloud's authority, its key included, as [`Authority::to_bytes`] has it. On persistence boxes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    /// Persistence boxes of the cloud, as they were last known: whom to ask after a start.
    pub(super) first: Vec<CloudBox>,
    /// The cloud has had auth boxes: tokens are theirs to make, whatever the record says later.
    #[serde(default)]
    pub(super) has_auth: bool,
}

/// What a box gets that joins.
#[derive(Serialize, Deserialize)]
pub(super) struct Welcome {
    setup: Setup,
    papers: Papers,
    sealing_key: String,
    names_key: String,
    names_certificate: String,
}

impl Papers {
    /// Those of a cloud's first box.
    pub(super) fn found(cloud: CloudId, me: BoxId, roles: &Roles, now: Timestamp) -> Result<Self, PapersError> {
        let authority = Authority::found(cloud, now).map_err(PapersError::Authority)?;
        let certificate = authority.issue(me, roles, now).map_err(PapersError::Authority)?;
        Ok(Self {
            trust: Trust::new(authority.root().clone()),
            certificate,
            authority: Some(BASE64.encode(&authority.to_bytes())),
            first: Vec::new(),
            has_auth: false,
        })
    }

    pub(super) fn authority(&self) -> Result<Option<Authority>, PapersError> {
        let Some(kept) = &self.authority else { return Ok(None) };
        let bytes = BASE64.decode(kept.as_bytes()).map_err(|_| PapersError::Unfit("no authority"))?;
        Authority::from_bytes(&bytes).map(Some).map_err(PapersError::Authority)
    }

    /// None where the node has none yet.
    pub(super) fn read(node: &Path) -> Result<Option<Self>, PapersError> {
        let path = node.join(PAPERS);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|source| PapersError::Malformed { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PapersError::File { path, source }),
        }
    }

    pub(super) fn write(&self, node: &Path) -> Result<(), PapersError> {
        let path = node.join(PAPERS);
        let text = serde_json::to_vec(self).map_err(|source| PapersError::Malformed { path: path.clone(), source })?;
        write_private(&path, &text).map_err(|source| PapersError::File { path, source })
    }
}

/// What the cloud gives to a box that joins with these roles, from what this box holds.
pub(super) fn welcome(
    node: &Path,
    setup: Setup,
    mine: &Papers,
    (id, roles): (BoxId, &Roles),
    first: Vec<CloudBox>,
    now: Timestamp,
) -> Result<Welcome, PapersError> {
    let authority = mine.authority()?.ok_or(PapersError::Unfit("no authority: it is another box's to let boxes in"))?;
    let text = |name: &str| {
        let path = node.join(name);
        fs::read(&path).map_err(|source| PapersError::File { path, source })
    };
    let utf8 = |bytes| String::from_utf8(bytes).map_err(|_| PapersError::Unfit("no PEM"));
    Ok(Welcome {
        setup: Setup { founder: false, ..setup },
        papers: Papers {
            trust: mine.trust.clone(),
            certificate: authority.issue(id, roles, now).map_err(PapersError::Authority)?,
            authority: mine.authority.clone().filter(|_| roles.has(Role::Persistence)),
            first,
            has_auth: mine.has_auth,
        },
        sealing_key: BASE64.encode(&text(SEALING_KEY)?),
        names_key: utf8(text(NAMES_KEY)?)?,
        names_certificate: utf8(text(NAMES_CERTIFICATE)?)?,
    })
}

impl Welcome {
    pub(super) fn read(given: serde_json::Value) -> Result<Self, PapersError> {
        serde_json::from_value(given).map_err(PapersError::Foreign)
    }

    /// What a box that has everything else gets anew.
    pub(super) fn papers(&self) -> Result<Papers, PapersError> {
        self.papers.authority()?;
        Ok(self.papers.clone())
    }

    /// Is it what the box with this key and these roles asked this cloud for?
    pub(super) fn check(&self, cloud: CloudId, me: BoxId, roles: &Roles, now: Timestamp) -> Result<(), PapersError> {
        if self.papers.trust.cloud() != cloud {
            return Err(PapersError::Unfit("another cloud's"));
        }
        let subject = self.papers.trust.judge(&self.papers.certificate.der, now);
        let subject = subject.map_err(|_| PapersError::Unfit("a certificate that its own roots don't stand for"))?;
        if subject.id != me || subject.roles != *roles {
            return Err(PapersError::Unfit("a certificate for another box, or for other roles"));
        }
        Ok(())
    }

    /// Lays it down for the node to start from. The papers last: with them it is complete.
    pub(super) fn lay(&self, node: &Path, roles: &Roles) -> Result<Setup, PapersError> {
        let key = BASE64.decode(self.sealing_key.as_bytes()).map_err(|_| PapersError::Unfit("no key"))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = node.join(name);
            write_private(&path, bytes).map_err(|source| PapersError::File { path, source })
        };
        write(SEALING_KEY, &key)?;
        write(NAMES_KEY, self.names_key.as_bytes())?;
        write(NAMES_CERTIFICATE, self.names_certificate.as_bytes())?;
        let mut papers = self.papers.clone();
        if !roles.has(Role::Persistence) {
            papers.authority = None;
        }
        papers.write(node)?;
        Ok(self.setup.clone())
    }
}

/// What was told of the cloud before its record came: enough to speak with those who keep it.
pub(super) fn known_from(cloud: CloudId, name: &Name, domain: &str, papers: &Papers) -> state::Boxes {
    state::Boxes {
        cloud,
        name: name.clone(),
        domain: domain.to_owned(),
        operators: std::collections::BTreeSet::new(),
        boxes: papers.first.iter().map(|it| (it.id, std::sync::Arc::new(it.clone()))).collect(),
        evicted: std::collections::BTreeMap::new(),
        homes: std::collections::BTreeMap::new(),
    }
}
