//! What an instance holds on the host's side while it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::limits::{GUEST_CLOCK_GRAIN, GUEST_FIELDS_BYTES_MAX, GUEST_RANDOM_BYTES_MAX, GUEST_RESOURCES_MAX};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::cell::{Cell, Permit, Stream};
use crate::keyvalue::Access;
use crate::limiter::Limiter;
use crate::lines::Stdio;
use crate::outbound::Sender;

/// The `T` of an instance's `Store<T>`.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    sender: Sender,
    config: Config,
    access: Access,
    pub(crate) limiter: Limiter,
    _permit: Option<Permit>,
}

/// `wasi:config`'s values, copied out of the cell only for a guest that asks.
enum Config {
    Shared(Arc<BTreeMap<String, String>>),
    Copied(WasiConfigVariables),
}

impl Guest {
    pub(crate) fn new(cell: Cell, sender: Sender) -> Self {
        let stdio = |stream| Stdio::new(Arc::clone(&cell.log), Arc::clone(&cell.request), stream);
        let wasi = WasiCtxBuilder::new()
            .envs(&cell.env)
            .stdout(stdio(Stream::Stdout))
            .stderr(stdio(Stream::Stderr))
            .wall_clock(WallClock)
            .monotonic_clock(MonotonicClock(Instant::now()))
            .max_random_size(GUEST_RANDOM_BYTES_MAX)
            // A guest finds no network at all. Its requests go out through `wasi:http`.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(GUEST_RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(GUEST_FIELDS_BYTES_MAX);
        Self {
            wasi,
            http,
            table,
            sender,
            access: Access::new(&cell),
            config: Config::Shared(cell.config),
            limiter: Limiter::new(cell.memory),
            _permit: cell.permit,
        }
    }

    pub(crate) fn config(&mut self) -> &WasiConfigVariables {
        if let Config::Shared(shared) = &self.config {
            let copied = shared.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            self.config = Config::Copied(copied);
        }
        match &self.config {
            Config::Copied(copied) => copied,
            Config::Shared(_) => unreachable!("copied just above"),
        }
    }

    pub(crate) fn keyvalue(&mut self) -> (&mut Access, &mut ResourceTable) {
        (&mut self.access, &mut self.table)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.sender, table: &mut self.table, ctx: &mut self.http }
    }
}

fn coarse(time: Duration) -> Duration {
    let grain = GUEST_CLOCK_GRAIN.as_nanos();
    let nanos = time.as_nanos() / grain * grain;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The time of day, in steps of `GUEST_CLOCK_GRAIN`.
struct WallClock;

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        GUEST_CLOCK_GRAIN
    }

    fn now(&self) -> Duration {
        coarse(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// Time since the instance began, in steps of `GUEST_CLOCK_GRAIN`: it tells nothing about the box.
struct MonotonicClock(Instant);

impl HostMonotonicClock for MonotonicClock {
    fn resolution(&self) -> u64 {
        u64::try_from(GUEST_CLOCK_GRAIN.as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        u64::try_from(coarse(self.0.elapsed()).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_step_in_grains() {
        assert_eq!(coarse(Duration::from_micros(1_999)), Duration::from_millis(1));
        assert_eq!(coarse(Duration::from_micros(999)), Duration::ZERO);
        assert_eq!(WallClock.now().subsec_nanos() % 1_000_000, 0);
        assert_eq!(MonotonicClock(Instant::now()).now() % 1_000_000, 0);
    }
}
