//! The name in a certificate: `spiffe://CLOUD/box/BOX/ROLE/…`, one URI, as SPIFFE's X.509-SVID wants it.
//!
//! One subject has one text: what isn't written exactly as we would write it names nobody.

use std::str::FromStr as _;

use base::{BoxId, CloudId, Role, Roles};

/// Whom a certificate names. That a text names somebody proves nothing: [`super::Trust::judge`] does, for the moment at
/// which it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub cloud: CloudId,
    pub id: BoxId,
    pub roles: Roles,
}

impl Subject {
    /// Its SPIFFE id, without the roles.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("{}/box/{}", cloud_uri(self.cloud), self.id)
    }

    /// The roles are further segments of the path, in their own order: a certificate has one URI (X509-SVID, 2), and
    /// its path has no commas (SPIFFE-ID, 2.2).
    pub(super) fn uri(&self) -> String {
        let mut uri = self.spiffe_id();
        for role in self.roles.iter() {
            uri.push('/');
            uri.push_str(role.as_str());
        }
        uri
    }

    pub(super) fn parse(uri: &str) -> Option<Self> {
        let (cloud, path) = uri.strip_prefix("spiffe://")?.split_once("/box/")?;
        let (id, roles) = path.split_once('/')?;
        // Three roles at the most; a longer text isn't taken apart.
        let roles: Vec<&str> = roles.splitn(Role::ALL.len() + 1, '/').collect();
        let subject =
            Self { cloud: cloud.parse().ok()?, id: id.parse().ok()?, roles: Roles::from_str(&roles.join(",")).ok()? };
        (subject.uri() == uri).then_some(subject)
    }
}

/// A cloud's SPIFFE trust domain, which names its roots.
pub(super) fn cloud_uri(cloud: CloudId) -> String {
    format!("spiffe://{cloud}")
}
