//! Certificates: the cloud's own authority for its own names, uploaded ones for domains, chosen by SNI.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use base::limits::CERTIFICATES_CACHED_MAX;
use hashlink::LruCache;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

use crate::router::Router;

/// The life of a certificate for one of the cloud's names. It is made anew at half of it.
const LEAF_LIFE: Duration = Duration::days(30);
/// The life of the authority. Its roll-over comes with the cloud of many boxes.
const AUTHORITY_LIFE: Duration = Duration::days(3_650);
/// Clocks differ.
const BACKDATED: Duration = Duration::hours(1);

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the file {path} can't be read or written")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the file {path} is not what the box wrote: restore it, or remove it together with authority.pem and every context that trusts it"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("a certificate can't be made")]
    Make(#[source] rcgen::Error),
    #[error("the certificate or key is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the certificate and key can't be used")]
    Use(#[source] rustls::Error),
}

/// The authority that signs for the cloud's own names.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    /// One key for all of the cloud's names: they are one process's all the same.
    leaf_key: KeyPair,
    /// The names that the authority signs for lie within it.
    domain: String,
    /// The name that the API answers at.
    api_host: String,
    leaves: Mutex<LruCache<String, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    certified: Arc<CertifiedKey>,
    renew: OffsetDateTime,
}

impl Authority {
    /// Reads the authority of `dir`, or founds it.
    pub(crate) fn open(dir: &Path, domain: &str) -> Result<Self, TlsError> {
        let (key_path, pem_path) = (dir.join("authority.key"), dir.join("authority.pem"));
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::File { path, source }
        };
        if !key_path.exists() {
            let key = KeyPair::generate().map_err(TlsError::Make)?;
            write_private(&key_path, key.serialize_pem().as_bytes()).map_err(file(&key_path))?;
        }
        let key = fs::read_to_string(&key_path).map_err(file(&key_path))?;
        let key = KeyPair::from_pem(&key).map_err(|source| TlsError::Damaged { path: key_path, source })?;
        let params = authority_params(&key);
        if !pem_path.exists() {
            let certificate = params.self_signed(&key).map_err(TlsError::Make)?;
            write_private(&pem_path, certificate.pem().as_bytes()).map_err(file(&pem_path))?;
        }
        let pem = fs::read_to_string(&pem_path).map_err(file(&pem_path))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::Pem)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            pem,
            leaf_key: KeyPair::generate().map_err(TlsError::Make)?,
            domain: domain.to_owned(),
            api_host: format!("api.{domain}"),
            leaves: Mutex::new(LruCache::new(CERTIFICATES_CACHED_MAX)),
        })
    }

    /// PEM, for contexts and browsers that shall trust it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of a name, made when it is first asked for.
    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, TlsError> {
        let now = OffsetDateTime::now_utc();
        if let Some(leaf) = self.lock().get(name)
            && now < leaf.renew
        {
            return Ok(Arc::clone(&leaf.certified));
        }
        let certified = Arc::new(self.sign(name, now)?);
        let leaf = Leaf { certified: Arc::clone(&certified), renew: now + LEAF_LIFE / 2 };
        self.lock().insert(name.to_owned(), leaf);
        Ok(certified)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Leaf>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, name: &str, now: OffsetDateTime) -> Result<CertifiedKey, TlsError> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(TlsError::Make)?;
        if name == self.api_host() {
            // The API is also called by the box's own address, before any name resolves.
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        }
        params.not_before = now - BACKDATED;
        params.not_after = now + LEAF_LIFE;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).map_err(TlsError::Make)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der()).expect("rcgen writes PKCS #8");
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(TlsError::Use)
    }

    pub(crate) fn api_host(&self) -> &str {
        &self.api_host
    }

    /// Only names of the cloud's own domain, two labels deep at the most, are signed for.
    fn owns(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain)
            .and_then(|before| before.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty() && labels.split('.').count() <= 2)
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The key's digest in the name: two clouds' authorities stay apart in a browser's list.
    let name = format!("Firmament authority {}", base::Digest::of(key.public_key_raw()).short());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + AUTHORITY_LIFE;
    params
}

/// Writes a file that only this user may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// An uploaded certificate chain with its key, checked to belong together.
pub(crate) fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Pem)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(TlsError::Use)
}

/// Chooses a certificate by the name that the visitor asks for.
struct BySni {
    authority: Arc<Authority>,
    router: Arc<ArcSwap<Router>>,
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BySni")
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let api_host = self.authority.api_host();
        let name = hello.server_name().map_or_else(|| api_host.to_owned(), str::to_ascii_lowercase);
        let router = self.router.load();
        if let Some(uploaded) = router.certificate(&name) {
            return Some(Arc::clone(uploaded));
        }
        // Any other name gets the API's certificate, and the visitor's own client says what is wrong. A claimed domain is
        // no exception: developers' browsers trust this authority, and whoever claims a bank's name is not the bank.
        let name = if self.authority.owns(&name) { &name } else { api_host };
        self.authority.leaf(name).map_err(|error| tracing::error!(name, "{}", base::chain(&error))).ok()
    }
}

/// TLS 1.3 and 1.2, HTTP/2 and HTTP/1.1.
pub(crate) fn server_config(
    authority: Arc<Authority>,
    router: Arc<ArcSwap<Router>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Use)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni { authority, router }));
    // A client that speaks HTTP/1.0 alone says so, and would be turned away if nobody else did.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_founded_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Authority::open(dir.path(), "localhost").expect("it is founded");
        let again = Authority::open(dir.path(), "localhost").expect("it is read");
        assert_eq!(first.pem(), again.pem());
        assert!(again.leaf("shop.acme.localhost").is_ok());
    }

    #[test]
    fn names_of_others_are_not_signed_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(dir.path(), "cloud.example").expect("it is founded");
        for (name, owned) in [
            ("api.cloud.example", true),
            ("a.b.cloud.example", true),
            ("a.b.c.cloud.example", false),
            ("cloud.example", false),
            ("evilcloud.example", false),
            ("bank.example", false),
        ] {
            assert_eq!(authority.owns(name), owned, "{name}");
        }
    }
}
