//! Everything under one data directory, and the lock that keeps a second node out of it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{AppId, BoxId, DatabaseId, TenantId};
use rustix::fs::{FlockOperation, flock};

use crate::record::{Group, Peers};
use crate::{Chunks, Databases, Keeper, Logs, chunks, databases, disk, logs, record};

/// Why the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data directory {path} can't be made: choose another one with --dir")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the data directory {path} can't be written to: check whose it is, or choose another one with --dir")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the disk is full: nothing can be written to {path}; make room there, or choose another one with --dir")]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// `holder` is a process id, when the other node got as far as writing it.
    #[error("{path} is in use by another node{}: stop that one, or choose another one with --dir", holder_of(.holder.as_deref()))]
    InUse { path: PathBuf, holder: Option<String> },
    #[error(
        "{path} has the data of apps, but no record.sqlite that says whose they are: put the record back from a \
         backup, or choose another one with --dir"
    )]
    RecordGone { path: PathBuf },
    #[error("the record can't be opened")]
    Record(#[source] record::OpenError),
    #[error("the chunks can't be opened")]
    Chunks(#[source] chunks::OpenError),
    #[error("the databases can't be opened")]
    Databases(#[source] databases::OpenError),
    #[error("the logs can't be opened")]
    Logs(#[source] logs::OpenError),
}

fn holder_of(holder: Option<&str>) -> String {
    holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// How a box comes to its record.
pub enum Keeping {
    /// It keeps its own, and nobody else does.
    Alone,
    /// It is one of those that keep the cloud's.
    InGroup(Group),
    /// It keeps up with those. `first` are asked until it knows who they are.
    Following { me: BoxId, peers: Arc<dyn Peers>, first: Vec<BoxId> },
}

/// All that outlives the process. The parts are cheap to clone; the lock is held for as long as this lives.
pub struct Store {
    pub record: Keeper,
    pub chunks: Chunks,
    pub databases: Databases,
    pub logs: Logs,
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the data directory of a lone box. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_as(dir, Keeping::Alone)
    }

    /// Opens the data directory, made for its owner alone where it is missing. Blocks.
    pub fn open_as(dir: &Path, keeping: Keeping) -> Result<Self, StoreError> {
        disk::create_dir(dir).map_err(|source| StoreError::Make { path: dir.to_owned(), source })?;
        let lock = lock(dir)?;
        check_record(dir)?;
        let record = match keeping {
            Keeping::Alone => Keeper::open(dir),
            Keeping::InGroup(group) => Keeper::open_in_group(dir, group),
            Keeping::Following { me, peers, first } => Keeper::follow(dir, me, peers, &first),
        };
        let record = record.map_err(StoreError::Record)?;
        let chunks = Chunks::open(dir).map_err(StoreError::Chunks)?;
        let databases = Databases::open(dir).map_err(StoreError::Databases)?;
        let logs = Logs::open(dir).map_err(StoreError::Logs)?;
        Ok(Self { record, chunks, databases, logs, dir: dir.to_owned(), _lock: lock })
    }

    /// Where it all lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes databases, chunks and logs of what the record no longer knows: what was dropped while the process
    /// that should have removed it was killed. At start, before the first request.
    ///
    /// Only what the record has forgotten goes, never what it hasn't heard of yet: a record that was put back from a
    /// backup leaves the younger data alone.
    pub async fn drop_unknown(&self) {
        let known = Known::of(&self.record.record());
        let listed = self.databases.all();
        for db in warned("databases", listed).into_iter().filter(|db| known.has_forgotten(db.id.0)) {
            if !known.databases.contains(&(db.tenant, db.id)) {
                tracing::info!(
                    tenant = db.tenant.0,
                    database = db.id.0,
                    "removing the database of a stage that is gone"
                );
                if let Err(error) = self.databases.drop_database(db).await {
                    tracing::error!(tenant = db.tenant.0, database = db.id.0, %error, "it can't be removed");
                }
            }
        }
        for tenant in warned("chunks", self.chunks.tenants()).into_iter().filter(|tenant| known.has_forgotten(tenant.0))
        {
            if !known.tenants.contains(&tenant) {
                tracing::info!(tenant = tenant.0, "removing the chunks of a tenant who is gone");
                if let Err(error) = self.chunks.drop_tenant(tenant) {
                    tracing::error!(tenant = tenant.0, error = base::chain(&error), "they can't be removed");
                }
            }
        }
        for (tenant, app) in warned("logs", self.logs.all()).into_iter().filter(|(_, app)| known.has_forgotten(app.0)) {
            if !known.apps.contains(&(tenant, app)) {
                tracing::info!(tenant = tenant.0, app = app.0, "removing the log of an app that is gone");
                self.logs.drop_app(tenant, app);
            }
        }
    }

    /// Finishes what waits, and lets another node in. Blocks.
    pub fn close(self) {
        self.databases.close();
        self.logs.close();
        self.record.close();
    }
}

fn warned<T>(what: &str, listed: io::Result<Vec<T>>) -> Vec<T> {
    listed.unwrap_or_else(|error| {
        tracing::error!(%error, "the directory of {what} can't be listed");
        Vec::new()
    })
}

/// What the record knows, by the numbers that paths are made of.
struct Known {
    tenants: HashSet<TenantId>,
    apps: HashSet<(TenantId, AppId)>,
    databases: HashSet<(TenantId, DatabaseId)>,
    /// The youngest id it has: it has heard of all that are older.
    youngest: u64,
}

impl Known {
    fn of(record: &state::Record) -> Self {
        let mut known = Self { tenants: HashSet::new(), apps: HashSet::new(), databases: HashSet::new(), youngest: 0 };
        for tenant in record.tenants() {
            known.tenants.insert(tenant.id);
            known.youngest = known.youngest.max(tenant.id.0);
            for app in tenant.apps.values() {
                known.apps.insert((tenant.id, app.id));
                known.youngest = known.youngest.max(app.id.0);
                for stage in app.stages.values() {
                    known.databases.insert((tenant.id, stage.database));
                    known.youngest = known.youngest.max(stage.database.0);
                }
            }
        }
        known
    }

    fn has_forgotten(&self, id: u64) -> bool {
        id < self.youngest
    }
}

/// Takes the lock, which also shows that the directory can be written to. The kernel lets go of it with the process.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let unwritable = |source: io::Error| {
        let path = dir.to_owned();
        if disk::is_full(&source) { StoreError::Full { path, source } } else { StoreError::Unwritable { path, source } }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(unwritable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Only to say who it is.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim().parse::<u32>().ok().map(|pid| pid.to_string());
            return Err(StoreError::InUse { path: dir.to_owned(), holder });
        }
        Err(error) => return Err(unwritable(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unwritable)?;
    Ok(file)
}

/// A directory with data but without a record was half restored: a new record would take the data for nobody's.
fn check_record(dir: &Path) -> Result<(), StoreError> {
    let holds = |part: &str| std::fs::read_dir(dir.join(part)).is_ok_and(|mut entries| entries.next().is_some());
    if !dir.join("record.sqlite").exists() && (holds("databases") || holds("chunks")) {
        return Err(StoreError::RecordGone { path: dir.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
