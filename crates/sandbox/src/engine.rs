//! The engines that run components, and their twins in the compile process.
//!
//! Both are made from one configuration, so that what one compiles the other may map. The node's engine never
//! compiles. WebAssembly proposals are off unless a toolchain that people use here emits them: each is code
//! that a hostile component can reach.

use std::hash::{Hash, Hasher};

use base::limits::{
    GUEST_STACK_BYTES_MAX, GUEST_TABLE_ELEMENTS_MAX, INSTANCE_CORES_MAX, INSTANCE_MEMORIES_MAX, INSTANCE_MEMORY_MAX,
    INSTANCE_TABLES_MAX, INSTANCES_MAX,
};
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result};
use wasmtime::{WasmBacktraceDetails, WasmFeatures};
use wasmtime_wasi_config::WasiConfig;

use crate::compile::Flavour;
use crate::guest::Guest;
use crate::keyvalue;

/// Changes when artifacts of an older sandbox must not be used although wasmtime would take them.
const ARTIFACT_REVISION: u32 = 2;

/// Host frames and wasmtime's own on top of a guest's stack.
const HOST_STACK_BYTES: usize = 1 << 20;

/// Memory of an instance that is wiped rather than given back, so that the next one needn't fault it in. More doesn't
/// help: wasmtime wipes at the most 32 regions, and what lies behind them is given back (a JavaScript hello writes to more
/// places than that, and has 71 page faults a request with 2 MiB too).
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// What each flavour of component runs on. Tasks and streams of the component model, which 0.3 is made of, cost every
/// call of a component whose engine has them: 0.2 has an engine without (a fresh instance answers in 53 µs, not in 67).
pub(crate) struct Engines {
    http02: Engine,
    http03: Engine,
}

impl Engines {
    pub(crate) fn new() -> Result<Self> {
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

/// An engine that runs what [`compiler`] compiled: instances come from a pool.
fn runner(flavour: Flavour) -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        // Nothing is reserved for a core instance; the bound is the one a component.
        .total_core_instances(INSTANCES_MAX * INSTANCE_CORES_MAX)
        .max_core_instances_per_component(INSTANCE_CORES_MAX)
        .total_memories(INSTANCES_MAX)
        .max_memories_per_component(INSTANCE_MEMORIES_MAX)
        .max_memory_size(
            usize::try_from(INSTANCE_MEMORY_MAX).expect("a bound of 1 GiB fits any usize that is built for"),
        )
        // Most components have one table or two; one that has more takes from the others' share.
        .total_tables(INSTANCES_MAX * 4)
        .max_tables_per_component(INSTANCE_TABLES_MAX)
        .max_tables_per_module(INSTANCE_TABLES_MAX)
        .table_elements(GUEST_TABLE_ELEMENTS_MAX)
        // A 0.3 component may have a second fiber while its first one waits.
        .total_stacks(INSTANCES_MAX * 2)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    // Memory protection keys stay off: their Cargo feature isn't built in (wasmtime #13982).
    let mut config = config(flavour);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
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
