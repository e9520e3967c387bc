//! TLS in which both sides prove an Ed25519 key, and no certificate says anything about it.

use std::sync::Arc;

use base::BoxId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use crate::identity::{Identity, IdentityError, SPKI_HEAD};
use crate::link::no_tls12;

const ALPN: &[u8] = b"firm-knock/1";

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error("the box's key can't be used for TLS")]
    Key(#[source] IdentityError),
    #[error("TLS can't be set up")]
    Tls(#[source] Error),
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    let key = PrivateKeyDer::from(identity.tls_key().map_err(TlsSetupError::Key)?);
    let key = provider.key_provider.load_private_key(key).map_err(TlsSetupError::Tls)?;
    let spki = [SPKI_HEAD.as_slice(), &identity.id().0].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key)))
}

/// The key that the other side proved. None for what no handshake of ours lets through.
pub(super) fn proven(certificates: Option<&[CertificateDer<'_>]>) -> Option<BoxId> {
    let [only] = certificates? else { return None };
    key_of(only)
}

fn key_of(spki: &[u8]) -> Option<BoxId> {
    let key = spki.strip_prefix(SPKI_HEAD.as_slice())?;
    key.try_into().ok().map(BoxId)
}

pub(super) fn server(identity: &Identity) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let provider = Arc::new(provider());
    let key = certified(identity, &provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsSetupError::Tls)?
        .with_client_cert_verifier(Arc::new(AnyKey::new(&provider, None)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every visit proves its key anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Speaks with the holder of `wanted` only, where one is named.
pub(super) fn client(identity: &Identity, wanted: Option<BoxId>) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = Arc::new(provider());
    let key = certified(identity, &provider)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsSetupError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey::new(&provider, wanted)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Takes any Ed25519 key whose holder signs the handshake. What the key is worth is for an introduction to say.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
    wanted: Option<BoxId>,
}

impl AnyKey {
    fn new(provider: &CryptoProvider, wanted: Option<BoxId>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, wanted }
    }

    fn check(&self, spki: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = key_of(spki).filter(|_| more.is_empty()).ok_or(CertificateError::BadEncoding)?;
        if self.wanted.is_some_and(|wanted| wanted != key) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn signed(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        spki: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(spki, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, spki, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        spki: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(spki, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, spki, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
