//! A database goes to another box: held here, its file carried over, and laid down there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use base::Digest;
use base::limits::DATABASE_BYTES_MAX;

use super::{Answer, Database, Databases, KvError, Operation, file_of, make_dir, put};
use crate::disk;

/// Why a database's file can't be carried.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("the database can't be held")]
    Hold(#[source] KvError),
    #[error("`{}` can't be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the box's disk is full")]
    NoRoom,
    #[error("a database has {DATABASE_BYTES_MAX} bytes at the most, and this one has {0}")]
    TooLarge(u64),
    #[error("what came is not what was sent: its digest is another")]
    Digest,
    #[error("a piece at {found} came, and {wanted} is the next")]
    Order { wanted: u64, found: u64 },
}

/// A database that takes no writes until it is released or dropped: its file is all of it, and stays as it is.
pub struct Held {
    path: PathBuf,
    pub bytes: u64,
}

impl Held {
    /// Some bytes of the file, from this one. Blocks.
    pub fn piece(&self, from: u64, max: usize) -> Result<Vec<u8>, MoveError> {
        let failed = |source| MoveError::File { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(max as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Of the whole file. Blocks.
    pub fn digest(&self) -> Result<Digest, MoveError> {
        let failed = |source| MoveError::File { path: self.path.clone(), source };
        let (mut file, mut hasher) = (File::open(&self.path).map_err(failed)?, blake3::Hasher::new());
        io::copy(&mut file, &mut hasher).map_err(failed)?;
        Ok(hasher.finalize().into())
    }
}

/// A database that arrives. Dropped before its end it leaves nothing.
pub struct Arriving {
    unfinished: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: blake3::Hasher,
    is_done: bool,
}

impl Databases {
    /// Takes no writes to the database from here on, and gives its file. None where it has none: nothing was ever written.
    pub async fn hold(&self, db: Database) -> Result<Option<Held>, MoveError> {
        self.manage(db, || Operation::Hold).await.map_err(MoveError::Hold)?;
        let path = self.path(db);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(Held { path, bytes: found.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MoveError::File { path, source }),
        }
    }

    /// Takes writes again.
    pub async fn release(&self, db: Database) -> Result<(), KvError> {
        self.manage(db, || Operation::Release).await
    }

    /// Begins to lay down a database that another box sends. This box must not be asked for it before it is whole. Blocks.
    pub fn receive(&self, db: Database) -> Result<Arriving, MoveError> {
        if self.inner.room.is_gone() {
            return Err(MoveError::NoRoom);
        }
        let path = self.path(db);
        let failed = |source| MoveError::File { path: path.clone(), source };
        make_dir(&self.inner.root, db).map_err(failed)?;
        let unfinished = path.with_extension("sqlite.arriving");
        disk::or_gone(fs::remove_file(&unfinished)).map_err(failed)?;
        let file = disk::create_file(&unfinished).map_err(failed)?;
        let hasher = blake3::Hasher::new();
        Ok(Arriving { unfinished, path, file, bytes: 0, hasher, is_done: false })
    }

    fn path(&self, db: Database) -> PathBuf {
        file_of(&self.inner.root, db)
    }

    async fn manage(&self, db: Database, operation: impl Fn() -> Operation) -> Result<(), KvError> {
        let pair = self.pair(db);
        // No bucket is meant; the queue wants one.
        let bucket: base::Name = "all".parse().expect("three letters are a name");
        for queue in [&pair.reads, &pair.writes] {
            match put(queue, db, bucket.clone(), operation()).await? {
                Answer::Done => {}
                other => unreachable!("it is done, or refused, and not {other:?}"),
            }
        }
        Ok(())
    }
}

impl Arriving {
    /// How much of it is here.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next piece. Blocks.
    pub fn take(&mut self, from: u64, piece: &[u8]) -> Result<(), MoveError> {
        if from != self.bytes {
            return Err(MoveError::Order { wanted: self.bytes, found: from });
        }
        let bytes = self.bytes + piece.len() as u64;
        if bytes > DATABASE_BYTES_MAX + SLACK {
            return Err(MoveError::TooLarge(bytes));
        }
        self.file.write_all(piece).map_err(|source| {
            if disk::is_full(&source) {
                MoveError::NoRoom
            } else {
                MoveError::File { path: self.unfinished.clone(), source }
            }
        })?;
        self.hasher.update(piece);
        self.bytes = bytes;
        Ok(())
    }

    /// It is whole: on the disk and in its place on return. Blocks.
    pub fn finish(mut self, digest: Digest) -> Result<(), MoveError> {
        if Digest::from(self.hasher.finalize()) != digest {
            return Err(MoveError::Digest);
        }
        let failed = |source| MoveError::File { path: self.path.clone(), source };
        self.file.sync_all().map_err(failed)?;
        // What an earlier move left is of an earlier file.
        for companion in ["-wal", "-shm"] {
            let mut name = self.path.clone().into_os_string();
            name.push(companion);
            disk::or_gone(fs::remove_file(name)).map_err(failed)?;
        }
        fs::rename(&self.unfinished, &self.path).map_err(failed)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        disk::sync_dir(dir).map_err(failed)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.is_done {
            // The next try removes it, if this can't.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// A file may have some pages more than it holds bytes.
const SLACK: u64 = 1 << 20;
