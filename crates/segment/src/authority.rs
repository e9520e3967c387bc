//! The cloud's certificate authority: it says which boxes are of the cloud and what their roles are.
//!
//! A certificate (X.509, RFC 5280) holds the box's own Ed25519 key and one URI name (SPIFFE's X.509-SVID), from which
//! cloud, box and roles are read; nothing else in it counts. It lives for a day, so that what isn't renewed is dead soon.
//!
//! Roots sign with Ed25519, as boxes do: whoever judges a chain knows one algorithm and refuses all others, signatures need
//! no randomness that could fail, and they are small. A root has no end of its own: it is believed as long as it is in
//! the [`Trust`] of a box, and an end that nobody looks at would only stop a cloud that was off for long. To roll over,
//! add the new root to the trust of every box, then issue from it, then drop the old one.
//!
//! *Invariant*: nothing here reads a clock. Time comes in, so that skew and expiry are tested without waiting.

mod subject;
mod trust;

use std::time::{Duration, SystemTime};

use base::limits::{CERTIFICATE_LIFE, CLOCK_SKEW_MAX};
use base::{BoxId, CloudId, Digest, Roles, Timestamp};
use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use subject::Subject;
pub use trust::{Distrust, Root, Trust, TrustError};

/// What time it is, for certificates alone. Deadlines and waits run on the monotonic clock.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// Why the authority can't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority of cloud {cloud} can't make its root")]
    Root {
        cloud: CloudId,
        #[source]
        source: rcgen::Error,
    },
    #[error("the authority of cloud {cloud} can't make a certificate for the box {id}")]
    Issue {
        cloud: CloudId,
        id: BoxId,
        #[source]
        source: rcgen::Error,
    },
    #[error("the kept authority is damaged: {what}. Restore it from another persistence box")]
    Damaged { what: &'static str },
    #[error("the system gives no random bytes")]
    Random,
    #[error("the time {now} can't stand in a certificate: set the box's clock")]
    Time { now: Timestamp },
}

/// Draws a name for a new cloud.
pub fn draw_cloud() -> Result<CloudId, AuthorityError> {
    random().map(CloudId)
}

/// A root and its key. Whoever holds one says who is of the cloud: it is kept sealed, on persistence boxes alone.
pub struct Authority {
    root: Root,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate as the authority hands it to its box. The times are the authority's word, for planning; whoever judges
/// reads them from the certificate itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    #[serde(with = "base64")]
    pub der: Vec<u8>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Certificate {
    /// When its box asks for the next one: at half of its life.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        self.issued_at.plus(self.expires_at.since(self.issued_at) / 2)
    }
}

/// An authority as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    cloud: CloudId,
    #[serde(with = "base64")]
    root: Vec<u8>,
    #[serde(with = "base64")]
    key: Vec<u8>,
}

impl Authority {
    /// Makes the first root of a new cloud, or, for a cloud that is there, the root that it rolls over to.
    pub fn found(cloud: CloudId, now: Timestamp) -> Result<Self, AuthorityError> {
        let made = |source| AuthorityError::Root { cloud, source };
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(made)?;
        let mut params = root_params(cloud, &key)?;
        params.not_before = moment(now, None)?;
        // RFC 5280, 4.1.2.5: no well-defined end.
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&key).map_err(made)?;
        let root = Root::of_cloud(cloud, certificate.der()).expect("it was just made for this cloud");
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    /// All of it, the key included: whoever stores these bytes seals them first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let kept = Kept {
            cloud: self.cloud(),
            root: self.root.der().to_vec(),
            key: self.issuer.key().serialized_der().to_vec(),
        };
        serde_json::to_vec(&kept).expect("text and bytes are JSON")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let damaged = |what| AuthorityError::Damaged { what };
        let kept: Kept = serde_json::from_slice(bytes).map_err(|_| damaged("it isn't an authority"))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(kept.key), &PKCS_ED25519)
            .map_err(|_| damaged("its key is no Ed25519 key"))?;
        let root =
            Root::of_cloud(kept.cloud, &kept.root).map_err(|_| damaged("its root is no root of the cloud it names"))?;
        if !root.has_key(key.public_key_raw()) {
            return Err(damaged("its key is not that of its root"));
        }
        let params = root_params(kept.cloud, &key)?;
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    pub fn cloud(&self) -> CloudId {
        self.root.cloud()
    }

    /// What other boxes need to believe what this authority issues.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Says that the holder of the key `id` is a box of the cloud with these roles, for [`CERTIFICATE_LIFE`] from `now`.
    ///
    /// It asks for no proof that the key is held: a certificate serves only who holds it, and the caller has spoken with
    /// that box over a link or an introduction, which prove it.
    pub fn issue(&self, id: BoxId, roles: &Roles, now: Timestamp) -> Result<Certificate, AuthorityError> {
        let cloud = self.cloud();
        let made = |source| AuthorityError::Issue { cloud, id, source };
        let expires_at = now.plus(CERTIFICATE_LIFE);
        let subject = Subject { cloud, id, roles: roles.clone() };
        let mut params = CertificateParams::default();
        // For the eyes of people and their tools; nobody of ours reads it.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id.long_name().to_string());
        params.subject_alt_names = vec![SanType::URI(subject.uri().try_into().map_err(made)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = moment(now, Some(CLOCK_SKEW_MAX * 2))?;
        params.not_after = moment(expires_at.plus(CLOCK_SKEW_MAX * 2), None)?;
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(&BoxKey(id), &self.issuer).map_err(made)?;
        Ok(Certificate { der: certificate.der().to_vec(), issued_at: now, expires_at })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({:?})", self.root)
    }
}

/// A root's name must be its own, or a chain could not tell two roots of one cloud apart but by trying.
fn root_params(cloud: CloudId, key: &KeyPair) -> Result<CertificateParams, AuthorityError> {
    let made = |source| AuthorityError::Root { cloud, source };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = format!("Firmament {cloud} {}", Digest::of(key.public_key_raw()).short());
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(subject::cloud_uri(cloud).try_into().map_err(made)?)];
    // It signs boxes and no further authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// A box's public key, as rcgen wants it.
struct BoxKey(BoxId);

impl PublicKeyData for BoxKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// `at`, or some time before it, in whole seconds, as certificates have it.
fn moment(at: Timestamp, before: Option<Duration>) -> Result<OffsetDateTime, AuthorityError> {
    let ms = at.0.saturating_sub(before.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
    let seconds = i64::try_from(ms / 1000).map_err(|_| AuthorityError::Time { now: at })?;
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .filter(|moment| (1970..9999).contains(&moment.year()))
        .ok_or(AuthorityError::Time { now: at })
}

/// 127 random bits, with no leading zero byte: RFC 5280, 4.1.2.2 wants a positive number.
fn serial() -> Result<rcgen::SerialNumber, AuthorityError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

/// How bytes stand in JSON.
mod base64 {
    use super::{BASE64, Deserialize};

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// A moment as the judge of chains wants it.
fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(now.0))
}

/// A certificate as the judge of chains wants it.
fn as_certificate(der: &[u8]) -> CertificateDer<'_> {
    CertificateDer::from(der)
}

#[cfg(test)]
mod tests;
