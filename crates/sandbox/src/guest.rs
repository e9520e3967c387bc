//! What an instance holds on the host's side while it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::limits::{GUEST_CLOCK_GRAIN, GUEST_FIELDS_BYTES_MAX, GUEST_RANDOM_BYTES_MAX, GUEST_RESOURCES_MAX};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::cell::{Cell, Permit, Stream, Visit, Voice};
use crate::keyvalue::Access;
use crate::limiter::Limiter;
use crate::lines::Stdio;
use crate::outbound::{Network, Sender};
use crate::watch::Report;

/// The `T` of an instance's `Store<T>`.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    sender: Sender,
    config: Config,
    access: Access,
    pub(crate) limiter: Limiter,
    voice: Arc<Voice>,
    stdio: [Stdio; 2],
    permit: Option<Permit>,
    report: Option<Arc<Report>>,
}

/// `wasi:config`'s values, copied out of the cell only for a guest that asks.
enum Config {
    Shared(Arc<BTreeMap<String, String>>),
    Copied(WasiConfigVariables),
}

impl Guest {
    pub(crate) fn new(cell: &Cell, voice: Arc<Voice>, network: &Arc<Network>, limiter: Limiter) -> Self {
        let stdio = [Stream::Stdout, Stream::Stderr].map(|stream| Stdio::new(Arc::clone(&voice), stream));
        let [stdout, stderr] = stdio.clone();
        let wasi = WasiCtxBuilder::new()
            .envs(&cell.env)
            .stdout(stdout)
            .stderr(stderr)
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
            sender: Sender::new(Arc::clone(network), Arc::clone(&cell.outbound), Arc::clone(&voice)),
            access: Access::new(cell, Arc::clone(&voice)),
            config: Config::Shared(Arc::clone(&cell.config)),
            limiter,
            voice,
            stdio,
            permit: None,
            report: None,
        }
    }

    /// What the instance does from now on, it does for this request.
    pub(crate) fn begin(&mut self, visit: Visit, report: &Arc<Report>) {
        self.report = Some(Arc::clone(report));
        self.voice.speak_for(visit.request);
        self.permit = visit.permit;
        self.limiter.begin();
    }

    /// The request is over, and the instance may wait for the next.
    pub(crate) fn end(&mut self) {
        for stdio in &self.stdio {
            stdio.end();
        }
        self.permit = None;
        self.report = None;
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
