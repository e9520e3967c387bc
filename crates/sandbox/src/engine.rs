//! The engines that run components, and their twins in the compile process.
//!
//! Both are made from one configuration, so that what one compiles the other may map. The node's engine never
//! compiles. WebAssembly proposals are off unless a toolchain that people use here emits them: each is code
//! that a hostile component can reach.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base::limits::GUEST_STACK_BYTES_MAX;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Result};
use wasmtime::{WasmBacktraceDetails, WasmFeatures};
use wasmtime_wasi_config::WasiConfig;

use crate::compile::Flavour;
use crate::guest::Guest;
use crate::keyvalue;
use crate::memory::{Memories, Stacks};

/// Changes when artifacts of an older sandbox must not be used although wasmtime would take them.
const ARTIFACT_REVISION: u32 = 6;

/// Host frames and wasmtime's own on top of a guest's stack.
const HOST_STACK_BYTES: usize = 1 << 20;

/// What each flavour of component runs on. Tasks and streams of the component model, which 0.3 is made of, cost every
/// call of a component whose engine has them: 0.2 has an engine without (a fresh instance answers in 53 µs, not in 67).
pub(crate) struct Engines {
    http02: Engine,
    http03: Engine,
}

impl Engines {
    pub(crate) fn new(memories: &Arc<Memories>, stacks: &Arc<Stacks>) -> Result<Self> {
        let runner = |flavour| runner(flavour, memories, stacks);
        Ok(Self { http02: runner(Flavour::Http02)?, http03: runner(Flavour::Http03)? })
    }

    pub(crate) fn of(&self, flavour: Flavour) -> &Engine {
        match flavour {
            Flavour::Http02 => &self.http02,
            Flavour::Http03 => &self.http03,
        }
    }

    pub(crate) fn tick(&self) {
        self.http02.increment_epoch();
        self.http03.increment_epoch();
    }

    /// What an artifact must have been compiled by to be run here: 16 hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = StableHasher(blake3::Hasher::new());
        ARTIFACT_REVISION.hash(&mut hash);
        for engine in [&self.http02, &self.http03] {
            engine.precompile_compatibility_hash().hash(&mut hash);
        }
        format!("{:016x}", hash.finish())
    }
}

/// An engine that runs what [`compiler`] compiled. How much of everything an instance may have is for its limiter.
fn runner(flavour: Flavour, memories: &Arc<Memories>, stacks: &Arc<Stacks>) -> Result<Engine> {
    let mut config = config(flavour);
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .with_host_memory(Arc::clone(memories) as _)
        .with_host_stack(Arc::clone(stacks) as _);
    Engine::new(&config)
}

/// An engine that compiles for [`runner`] and reserves nothing.
pub(crate) fn compiler(flavour: Flavour) -> Result<Engine> {
    Engine::new(&config(flavour))
}

fn config(flavour: Flavour) -> Config {
    let concurrent = flavour == Flavour::Http03;
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES_MAX)
        .async_stack_size(GUEST_STACK_BYTES_MAX + HOST_STACK_BYTES)
        .wasm_component_model_async(concurrent)
        .concurrency_support(concurrent)
        // What a memory holds at first is mapped by `crate::memory`, from what `crate::compile` has taken out.
        .memory_init_cow(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Function names are enough for a log line; offsets would be a third of an artifact.
        .generate_address_map(false)
        // Nothing but wasmtime unwinds these stacks.
        .native_unwind_info(false);
    for unused in [
        WasmFeatures::MEMORY64,
        WasmFeatures::MULTI_MEMORY,
        WasmFeatures::RELAXED_SIMD,
        WasmFeatures::TAIL_CALL,
        WasmFeatures::FUNCTION_REFERENCES,
    ] {
        config.wasm_features(unused, false);
    }
    config
}

/// Std's own hasher may change with the toolchain; file names shouldn't.
struct StableHasher(blake3::Hasher);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        let first = hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes");
        u64::from_be_bytes(*first)
    }
}

/// What a component of each flavour may import.
pub(crate) struct Linkers {
    http02: Linker<Guest>,
    http03: Linker<Guest>,
}

impl Linkers {
    pub(crate) fn new(engines: &Engines) -> Result<Self> {
        let linker = |flavour| linker(engines.of(flavour), flavour);
        Ok(Self { http02: linker(Flavour::Http02)?, http03: linker(Flavour::Http03)? })
    }

    pub(crate) fn of(&self, flavour: Flavour) -> &Linker<Guest> {
        match flavour {
            Flavour::Http02 => &self.http02,
            Flavour::Http03 => &self.http03,
        }
    }
}

/// Everything that a component may import, of all versions at once: a component imports the names of its own. One
/// that speaks 0.3 may be made of parts that speak 0.2, not the other way round.
pub(crate) fn linker(engine: &Engine, flavour: Flavour) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if flavour == Flavour::Http03 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, |guest: &mut Guest| WasiConfig::new(guest.config()))?;
    keyvalue::add_to_linker(&mut linker)?;
    Ok(linker)
}
