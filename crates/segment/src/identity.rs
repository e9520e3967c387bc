//! The key that a box is: made at its first start, kept in a file of its own, never sent anywhere.
//!
//! A file that can't be read is never written over: a box whose key is gone is another box, and that is for its operator
//! to say.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base::BoxId;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Why a box has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the key {path} can't be read or written")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key {path} is damaged: put it back from a copy")]
    Damaged { path: PathBuf },
    #[error("others may read the key {path} (mode {mode:o}): `chmod 600` it; if it was seen, it is no secret any more")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the system makes no key")]
    Make,
}

/// An Ed25519 key pair (RFC 8032), of a box or of an operator.
#[derive(Clone)]
pub struct Identity {
    pair: Arc<Ed25519KeyPair>,
    id: BoxId,
}

impl Identity {
    /// A fresh one, in memory alone.
    pub fn generate() -> Result<Self, IdentityError> {
        Ed25519KeyPair::generate().map(Self::of).map_err(|_| IdentityError::Make)
    }

    /// Reads the key at `path`, or makes one there. Blocks. What it returns is on the disk.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let file = |source| IdentityError::File { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) => {
                let mode = found.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Exposed { path: path.to_owned(), mode });
                }
                let der = fs::read(path).map_err(file)?;
                Self::from_pkcs8(&der).ok_or_else(|| IdentityError::Damaged { path: path.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fresh = Self::generate()?;
                write_private(path, fresh.pkcs8()?.as_ref()).map_err(file)?;
                Ok(fresh)
            }
            Err(error) => Err(file(error)),
        }
    }

    /// From PKCS#8 (RFC 5958).
    pub(crate) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_pkcs8(der).ok().map(Self::of)
    }

    pub(crate) fn to_pkcs8(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(self.pkcs8()?.as_ref().to_vec())
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let key = pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        Self { pair: Arc::new(pair), id: BoxId(key) }
    }

    /// The public half.
    pub fn id(&self) -> BoxId {
        self.id
    }

    /// Signs `message`. Every kind of message begins with a context of its own, so that no signature serves as another.
    pub fn sign(&self, context: Context, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(&context.of(message));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// As [`sign`](Self::sign), in base64.
    pub fn sign_text(&self, context: Context, message: &[u8]) -> String {
        data_encoding::BASE64.encode(&self.sign(context, message))
    }

    /// The key as TLS wants it.
    pub fn tls_key(&self) -> Result<PrivatePkcs8KeyDer<'static>, IdentityError> {
        Ok(PrivatePkcs8KeyDer::from(self.to_pkcs8()?))
    }

    fn pkcs8(&self) -> Result<Pkcs8V1Der<'static>, IdentityError> {
        self.pair.as_der().map_err(|_| IdentityError::Make)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.id.long_name())
    }
}

pub const SIGNATURE_BYTES: usize = 64;

/// The DER of an Ed25519 public key (`SubjectPublicKeyInfo`) up to the key itself (RFC 8410, 4).
pub(crate) const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// An operator's order to a box.
    Order,
    /// An operator's word that boxes with this seal are theirs.
    Seal,
    /// A seal's word for the box that carries it.
    Sealed,
    /// What an auth box or an operator vouches for. What it is stands at its head.
    Word,
}

impl Context {
    fn of(self, message: &[u8]) -> Vec<u8> {
        let context: &[u8] = match self {
            Self::Order => b"firmament order 1\0",
            Self::Seal => b"firmament seal 1\0",
            Self::Sealed => b"firmament sealed 1\0",
            Self::Word => b"firmament word 1\0",
        };
        [context, message].concat()
    }
}

/// As [`is_signed`], of a signature in base64.
pub fn is_signed_text(key: BoxId, context: Context, message: &[u8], signature: &str) -> bool {
    let signature = data_encoding::BASE64.decode(signature.as_bytes());
    signature.is_ok_and(|signature| is_signed(key, context, message, &signature))
}

/// Did the holder of `key` sign this `message`?
pub fn is_signed(key: BoxId, context: Context, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(&context.of(message), signature).is_ok()
}

/// Writes a file that only its user may read, so that a crash leaves the old one or the new one. Blocks.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    // A file that a crash left there keeps its mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_then_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identity.key");
        let made = Identity::open(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::open(&path).expect("read").id(), made.id());
    }

    #[test]
    fn a_damaged_or_exposed_key_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identity.key");
        write_private(&path, b"garbage").expect("written");
        assert!(matches!(Identity::open(&path), Err(IdentityError::Damaged { .. })));
        assert_eq!(fs::read(&path).expect("there"), b"garbage");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(Identity::open(&path), Err(IdentityError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn a_signature_holds_for_its_key_message_and_context_alone() {
        let [ours, other] = [(), ()].map(|()| Identity::generate().expect("made"));
        let signature = ours.sign(Context::Order, b"firm");
        assert!(is_signed(ours.id(), Context::Order, b"firm", &signature));
        assert!(!is_signed(other.id(), Context::Order, b"firm", &signature));
        assert!(!is_signed(ours.id(), Context::Order, b"wipe", &signature));
        assert!(!is_signed(ours.id(), Context::Seal, b"firm", &signature));
        assert!(!is_signed(ours.id(), Context::Order, b"firm", &signature[1..]));
        assert!(!is_signed(BoxId([0; 32]), Context::Order, b"firm", &[0; 64]));
    }
}
