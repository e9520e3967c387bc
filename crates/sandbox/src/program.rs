//! Compiled components, mapped and ready to be instantiated.
//!
//! Nothing is mapped before it is asked for: a node with 1,000 apps starts as fast as one with none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use base::limits::PROGRAMS_LOADED_MAX;
use base::{Digest, TenantId};
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::{p2, p3};

use crate::artifact::{Artifacts, ReadError};
use crate::compile::Flavour;
use crate::engine::{Engines, Linkers};
use crate::guest::Guest;
use crate::memory::Contents;

/// A compiled component of one tenant, mapped. An instance a request is made from it.
pub struct Program {
    tenant: TenantId,
    component: Digest,
    pub(crate) proxy: Proxy,
    /// What its memories hold at first.
    pub(crate) contents: Arc<Contents>,
}

/// A component whose imports are all found.
pub(crate) enum Proxy {
    Http02(p2::bindings::ProxyPre<Guest>),
    Http03(p3::bindings::ServicePre<Guest>),
}

/// Why a program can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Never compiled here, or by another engine: compile it (again).
    #[error("the component {} isn't compiled for this engine", .0.short())]
    Missing(Digest),
    /// The artifact is not what the compiler wrote. It has been removed: compile it again.
    #[error("the compiled component {} was damaged on disk and has been removed", .0.short())]
    Damaged(Digest),
    #[error("the compiled component {} can't be read", .component.short())]
    Unreadable {
        component: Digest,
        #[source]
        cause: std::io::Error,
    },
    #[error("the component {} can't be linked: {reason}", .component.short())]
    Link { component: Digest, reason: String },
}

impl Program {
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    #[must_use]
    pub fn component(&self) -> Digest {
        self.component
    }

    #[must_use]
    pub fn flavour(&self) -> Flavour {
        match self.proxy {
            Proxy::Http02(_) => Flavour::Http02,
            Proxy::Http03(_) => Flavour::Http03,
        }
    }
}

/// Finds the component's imports and its handler.
pub(crate) fn link(linker: &Linker<Guest>, component: &Component, flavour: Flavour) -> wasmtime::Result<Proxy> {
    let complete = linker.instantiate_pre(component)?;
    Ok(match flavour {
        Flavour::Http02 => Proxy::Http02(p2::bindings::ProxyPre::new(complete)?),
        Flavour::Http03 => Proxy::Http03(p3::bindings::ServicePre::new(complete)?),
    })
}

type Key = (TenantId, Digest);

/// The programs that are mapped, at the most `PROGRAMS_LOADED_MAX`. Tenants never share one.
pub(crate) struct Programs {
    loaded: RwLock<HashMap<Key, Loaded>>,
    /// Counts uses, to know which program was used least recently.
    uses: AtomicU64,
}

struct Loaded {
    program: Arc<Program>,
    used: AtomicU64,
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self { loaded: RwLock::default(), uses: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, tenant: TenantId, component: Digest) -> Option<Arc<Program>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let found = loaded.get(&(tenant, component))?;
        found.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(Arc::clone(&found.program))
    }

    pub(crate) fn remove(&self, tenant: TenantId, component: Digest) {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(&(tenant, component));
    }

    /// Maps a program. Two at once may both do so; one of them is kept.
    pub(crate) fn load(
        &self,
        engines: &Engines,
        linkers: &Linkers,
        artifacts: &Artifacts,
        (tenant, component): Key,
    ) -> Result<Arc<Program>, LoadError> {
        if let Some(found) = self.get(tenant, component) {
            return Ok(found);
        }
        let (mapped, flavour, contents) = artifacts.map(engines, tenant, component).map_err(|error| match error {
            ReadError::Missing => LoadError::Missing(component),
            ReadError::Damaged => LoadError::Damaged(component),
            ReadError::Io(cause) => LoadError::Unreadable { component, cause },
        })?;
        let proxy = link(linkers.of(flavour), &mapped, flavour)
            .map_err(|error| LoadError::Link { component, reason: format!("{error:#}") })?;
        let program = Arc::new(Program { tenant, component, proxy, contents: Arc::new(contents) });
        Ok(self.keep(program))
    }

    fn keep(&self, program: Arc<Program>) -> Arc<Program> {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let key = (program.tenant, program.component);
        if loaded.len() >= PROGRAMS_LOADED_MAX && !loaded.contains_key(&key) {
            let oldest = loaded.iter().min_by_key(|(_, program)| program.used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                loaded.remove(&oldest);
            }
        }
        let used = AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed));
        let kept = loaded.entry(key).or_insert(Loaded { program, used });
        Arc::clone(&kept.program)
    }
}
