//! What every part does to directories: make them for nobody else to see, and make their entries durable.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base::limits::{DISK_LOOK, DISK_RESERVED_BYTES};

/// Makes the directory and those above it, for the owner alone. One that exists stays as it is: it may be
/// somebody's home.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file for the owner alone; fails when it exists.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What was made, renamed or removed in the directory stays so after a loss of power.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// No room on the disk, or none left for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes that are free on the disk of this directory, to others than root.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Room on the disk for what tenants write. Its last bytes are not for them.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    reserved: u64,
    looked: Mutex<Option<(Instant, bool)>>,
}

impl Room {
    /// On the disk of this directory.
    pub(crate) fn on(dir: &Path) -> Self {
        Self::but(dir, DISK_RESERVED_BYTES)
    }

    /// As [`on`](Self::on), but so many bytes.
    pub(crate) fn but(dir: &Path, reserved: u64) -> Self {
        Self { dir: dir.to_owned(), reserved, looked: Mutex::default() }
    }

    /// Tenants have had theirs, by a look that is no older than [`DISK_LOOK`].
    pub(crate) fn is_gone(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        match *looked {
            Some((when, is_gone)) if when.elapsed() < DISK_LOOK => is_gone,
            _ => {
                // Where it can't be told, whoever writes is told by the write itself.
                let is_gone = free_bytes(&self.dir).is_ok_and(|free| free < self.reserved);
                *looked = Some((Instant::now(), is_gone));
                is_gone
            }
        }
    }
}

/// The names in a directory that are numbers: our own, whatever else somebody put there.
pub(crate) fn numbered(dir: &Path, suffix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(suffix)).and_then(|name| name.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

/// Done already is done.
pub(crate) fn or_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
