//! TLS between boxes: version 1.3 alone, both sides show a certificate, and both are judged the same way.
//!
//! One key exchange (X25519MLKEM768: what is recorded today stays closed to tomorrow's quantum computers), one cipher
//! suite, one signature algorithm: both ends are ours, so there is nothing to negotiate and nothing to talk anybody
//! down to. Sessions are not resumed: links last for hours, and each connection is to be judged by what is true when it
//! is made. The class of a link is its ALPN name, so that it is agreed before the first frame.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use base::BoxId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme, version,
};
use webpki::aws_lc_rs::ED25519;

use super::{Admission, Class, LinksError};
use crate::authority::{Certificate, Clock, Distrust, Subject, Trust};
use crate::identity::Identity;

/// The one way that boxes sign.
static SIGNATURES: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[ED25519], mapping: &[(SignatureScheme::ED25519, &[ED25519])] };

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        signature_verification_algorithms: SIGNATURES,
        ..aws_lc_rs::default_provider()
    })
});

/// All that a box judges others by.
pub(super) struct Beliefs {
    pub(super) trust: ArcSwap<Trust>,
    pub(super) admission: Arc<dyn Admission>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Beliefs {
    /// Who showed this certificate, if they are to be spoken with now.
    pub(super) fn judge(&self, der: &[u8]) -> Result<Subject, Distrust> {
        let subject = self.trust.load().judge(der, self.clock.now())?;
        if !self.admission.admits(&subject) {
            return Err(Distrust::NotAdmitted { id: subject.id });
        }
        Ok(subject)
    }

    fn judge_chain(&self, shown: &CertificateDer<'_>, beside: &[CertificateDer<'_>]) -> Result<Subject, Distrust> {
        if !beside.is_empty() {
            return Err(Distrust::Size { bytes: shown.len() });
        }
        self.judge(shown)
    }
}

impl fmt::Debug for Beliefs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Beliefs({:?})", self.trust.load())
    }
}

/// What a box shows: the certificate of the day.
#[derive(Debug)]
pub(super) struct Shown {
    key: Arc<dyn SigningKey>,
    current: ArcSwap<CertifiedKey>,
}

impl Shown {
    pub(super) fn new(identity: &Identity, certificate: &Certificate) -> Result<Self, LinksError> {
        let der = PrivateKeyDer::Pkcs8(identity.tls_key().map_err(LinksError::Identity)?);
        let key = PROVIDER.key_provider.load_private_key(der).map_err(LinksError::Key)?;
        let current = ArcSwap::from_pointee(certified(&key, certificate));
        Ok(Self { key, current })
    }

    /// New handshakes show `certificate` from here on.
    pub(super) fn show(&self, certificate: &Certificate) {
        self.current.store(Arc::new(certified(&self.key, certificate)));
    }
}

fn certified(key: &Arc<dyn SigningKey>, certificate: &Certificate) -> CertifiedKey {
    CertifiedKey::new(vec![CertificateDer::from(certificate.der.clone())], key.clone())
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How a box dials `wanted`, and nobody else.
pub(super) fn client(beliefs: &Arc<Beliefs>, shown: &Arc<Shown>, wanted: BoxId, class: Class) -> Arc<ClientConfig> {
    let verifier = Arc::new(Wanted { beliefs: beliefs.clone(), wanted });
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the suite is of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(shown.clone());
    config.alpn_protocols = vec![class.protocol().to_vec()];
    config.resumption = Resumption::disabled();
    // Boxes have no DNS names, and whom one dials is nobody's business on the wire.
    config.enable_sni = false;
    Arc::new(config)
}

/// How a box is dialled.
pub(super) fn server(beliefs: &Arc<Beliefs>, shown: &Arc<Shown>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the suite is of TLS 1.3")
        .with_client_cert_verifier(Arc::new(Anybody { beliefs: beliefs.clone() }))
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = Class::ALL.iter().map(|class| class.protocol().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn refused(why: Distrust) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// What both kinds of a box's TLS say to an older one.
pub(crate) fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}

/// Believes one box that is to be reached.
#[derive(Debug)]
struct Wanted {
    beliefs: Arc<Beliefs>,
    wanted: BoxId,
}

impl ServerCertVerifier for Wanted {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let subject = self.beliefs.judge_chain(shown, beside).map_err(refused)?;
        if subject.id != self.wanted {
            return Err(refused(Distrust::Other { wanted: self.wanted, found: subject.id }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Believes any box of the cloud that dials.
#[derive(Debug)]
struct Anybody {
    beliefs: Arc<Beliefs>,
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.beliefs.judge_chain(shown, beside).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}
