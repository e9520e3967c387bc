//! The figures as Prometheus reads them: its text format 0.0.4.
//!
//! Names of tenants, apps and stages are the only foreign text, and a name has nothing to escape. Reads `/proc`, so it
//! may block for a moment.

use std::fmt::Write as _;
use std::fs;

use base::limits::{INSTANCES_MAX, METRIC_SITES_MAX};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use state::Record;

use super::FaultKind;
use super::meter::{BUCKETS, CLASSES, Cores, Count, Counters, Meter};
use crate::cloud::Cloud;

/// What stands in for the names of stages that have no figures of their own. No name has a parenthesis.
const OTHERS: &str = "(others)";

/// All figures of the box.
pub(crate) fn render(cloud: &Cloud) -> String {
    let mut out = Out(String::new());
    sites(&mut out, cloud);
    front(&mut out, cloud);
    stores(&mut out, cloud);
    process(&mut out, cloud);
    out.0
}

struct Out(String);

impl Out {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        if labels.is_empty() {
            self.push(format_args!("{name} {value}\n"));
        } else {
            self.push(format_args!("{name}{{{labels}}} {value}\n"));
        }
    }

    /// A family of one.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String can't fail");
    }
}

fn sum(cores: &Cores, count: impl Fn(&Counters) -> &Count) -> u64 {
    cores.iter().map(|core| count(core).get()).sum()
}

/// Is the meter's stage still there? A core that serves nothing may hold on to a site that is gone.
fn is_there(record: &Record, meter: &Meter) -> bool {
    let app = record.app(meter.tenant, meter.app_name.as_str());
    app.is_some_and(|app| app.id == meter.app && app.stage(meter.stage.as_str()).is_some())
}

fn sites(out: &mut Out, cloud: &Cloud) {
    let record = cloud.record();
    let meters = cloud.meters.all();
    let mut rows: Vec<(String, Cores)> = Vec::new();
    for meter in meters.iter().filter(|meter| is_there(&record, meter)) {
        if let Some(cores) = meter.own() {
            let Meter { tenant_name, app_name, stage, .. } = &**meter;
            rows.push((format!("tenant=\"{tenant_name}\",app=\"{app_name}\",stage=\"{stage}\""), cores.clone()));
        }
    }
    let others = cloud.meters.others();
    if (0..CLASSES.len()).any(|class| sum(others, |core| &core.answers[class]) > 0) {
        rows.push((format!("tenant=\"{OTHERS}\",app=\"{OTHERS}\",stage=\"{OTHERS}\""), others.clone()));
    }

    out.family("firm_requests_total", "counter", "Answers of an app's stage, by the class of their status.");
    for (labels, cores) in &rows {
        for (index, class) in CLASSES.iter().enumerate() {
            let count = sum(cores, |core| &core.answers[index]);
            out.sample("firm_requests_total", &format!("{labels},class=\"{class}\""), count);
        }
    }
    out.family("firm_answer_bytes_total", "counter", "Bytes of answers' bodies that were handed to their connections.");
    for (labels, cores) in &rows {
        out.sample("firm_answer_bytes_total", labels, sum(cores, |core| &core.bytes));
    }
    durations(out, &rows);
    out.family("firm_throttled_total", "counter", "Requests that a throttle refused.");
    for (labels, cores) in &rows {
        out.sample("firm_throttled_total", labels, sum(cores, |core| &core.throttled));
    }
    out.family(
        "firm_answers_broken_total",
        "counter",
        "Answers that ended too early: the visitor left, or the app failed.",
    );
    for (labels, cores) in &rows {
        for (index, by) in ["visitor", "app"].into_iter().enumerate() {
            let count = sum(cores, |core| &core.broken[index]);
            out.sample("firm_answers_broken_total", &format!("{labels},by=\"{by}\""), count);
        }
    }
    out.family(
        "firm_faults_total",
        "counter",
        "Requests that got no answer from the app's code, by why. Kinds that occurred.",
    );
    for (labels, cores) in &rows {
        for (kind, name) in FaultKind::ALL {
            let count = sum(cores, |core| &core.faults[kind as usize]);
            if count > 0 {
                out.sample("firm_faults_total", &format!("{labels},kind=\"{name}\""), count);
            }
        }
    }
    let help = "Stages with figures of their own at the most; what has traffic beyond stands together as (others).";
    out.one("firm_metric_stages_max", "gauge", help, METRIC_SITES_MAX);
}

fn durations(out: &mut Out, rows: &[(String, Cores)]) {
    const NAME: &str = "firm_request_seconds";
    out.family(NAME, "histogram", "From a request's head to the last byte of its answer.");
    for (labels, cores) in rows {
        let mut all = 0;
        for (index, end) in BUCKETS.iter().enumerate() {
            all += sum(cores, |core| &core.buckets[index]);
            out.push(format_args!("{NAME}_bucket{{{labels},le=\"{}\"}} {all}\n", Seconds(*end)));
        }
        all += sum(cores, |core| &core.buckets[BUCKETS.len()]);
        out.push(format_args!("{NAME}_bucket{{{labels},le=\"+Inf\"}} {all}\n"));
        out.push(format_args!("{NAME}_sum{{{labels}}} {}\n", Seconds(sum(cores, |core| &core.micros))));
        out.push(format_args!("{NAME}_count{{{labels}}} {all}\n"));
    }
}

/// Microseconds, shown as seconds, exactly.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

fn front(out: &mut Out, cloud: &Cloud) {
    type Of = fn(&super::meter::CoreCounters) -> &Count;
    out.family(
        "firm_other_requests_total",
        "counter",
        "Answers that no app gave: the API's, and to requests that named no app.",
    );
    for (to, cores) in [("api", cloud.meters.api()), ("nobody", cloud.meters.nobody())] {
        for (index, class) in CLASSES.iter().enumerate() {
            let count = sum(cores, |core| &core.answers[index]);
            out.sample("firm_other_requests_total", &format!("to=\"{to}\",class=\"{class}\""), count);
        }
    }
    let families: [(&str, &str, &str, Of); 3] = [
        ("firm_connections", "gauge", "Connections that are open.", |core| &core.open),
        ("firm_connections_accepted_total", "counter", "Connections that were accepted.", |core| &core.accepted),
        (
            "firm_connections_refused_total",
            "counter",
            "Connections that were closed unheard: no TLS came, or there were too many.",
            |core| &core.refused,
        ),
    ];
    for (name, kind, help, of) in families {
        out.family(name, kind, help);
        for (number, core) in cloud.meters.cores().iter().enumerate() {
            out.sample(name, &format!("core=\"{number}\""), of(core).get());
        }
    }
    out.one("firm_instances", "gauge", "Requests that apps' instances work on.", cloud.builder.instances());
    out.one("firm_instances_max", "gauge", "Instances that there may be at once.", INSTANCES_MAX);
    if let Some(export) = &cloud.export {
        let (sent, dropped) = export.counts();
        out.one("firm_spans_sent_total", "counter", "Spans that the collector took.", sent);
        out.one("firm_spans_dropped_total", "counter", "Spans that found no room or no collector.", dropped);
    }
}

fn stores(out: &mut Out, cloud: &Cloud) {
    let record = cloud.record();
    let apps: usize = record.tenants().map(|tenant| tenant.apps.len()).sum();
    out.one("firm_record_index", "gauge", "Commands that the record holds.", record.index());
    out.one("firm_tenants", "gauge", "Tenants of the cloud.", record.tenants().count());
    out.one("firm_apps", "gauge", "Apps of the cloud.", apps);
    let kv = cloud.store.databases.figures();
    out.family("firm_kv_operations_total", "counter", "Operations on apps' databases. A batch is one.");
    for (name, count) in kv.operations {
        out.sample("firm_kv_operations_total", &format!("operation=\"{name}\""), count);
    }
    out.one("firm_kv_failed_total", "counter", "Operations among those that ended in an error.", kv.failed);
    out.family("firm_databases_open", "gauge", "Database files that are open.");
    for (lane, count) in ["read", "write"].into_iter().zip(kv.open) {
        out.sample("firm_databases_open", &format!("lane=\"{lane}\""), count);
    }
    let help = "Lines of apps' logs that found no room or were beyond their share.";
    out.one("firm_log_lines_dropped_total", "counter", help, cloud.store.logs.dropped());
    let (running, waiting) = cloud.sandbox.compiling();
    out.one("firm_compiles_running", "gauge", "Components that are being compiled.", running);
    out.one("firm_compiles_waiting", "gauge", "Pushes that wait for the compiler.", waiting);
}

/// By the names that Prometheus's own clients give them.
fn process(out: &mut Out, cloud: &Cloud) {
    let version = env!("CARGO_PKG_VERSION");
    out.family("firm_build_info", "gauge", "The build that runs.");
    out.sample("firm_build_info", &format!("version=\"{version}\""), 1);
    out.one("firm_draining", "gauge", "Is the box going down?", u8::from(cloud.is_draining()));
    if let Ok(free) = persist::free_bytes(&cloud.settings.dir) {
        out.one("firm_disk_free_bytes", "gauge", "Free in the data directory's file system.", free);
    }
    let started = Seconds(cloud.since.0.saturating_mul(1_000));
    out.one("process_start_time_seconds", "gauge", "When the node started, since 1970.", started);
    if let Some(taken) = Process::look() {
        out.one("process_resident_memory_bytes", "gauge", "Memory that is in use.", taken.resident);
        out.one("process_virtual_memory_bytes", "gauge", "Address space, most of it only reserved.", taken.reserved);
        out.one("process_cpu_seconds_total", "counter", "CPU time, all threads.", Seconds(taken.cpu_micros));
        out.one("process_threads", "gauge", "Threads.", taken.threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder that is being read.
        out.one("process_open_fds", "gauge", "Descriptors that are open.", open.count().saturating_sub(1));
    }
    if let Some(max) = getrlimit(Resource::Nofile).current {
        out.one("process_max_fds", "gauge", "Descriptors that may be.", max);
    }
}

struct Process {
    resident: u64,
    reserved: u64,
    cpu_micros: u64,
    threads: u64,
}

impl Process {
    /// From `/proc/self/status` (proc(5)) and the process's own clock.
    fn look() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let (seconds, nanos) = (u64::try_from(cpu.tv_sec).ok()?, u64::try_from(cpu.tv_nsec).ok()?);
        Some(Self {
            resident: field("VmRSS")?.checked_mul(1024)?,
            reserved: field("VmSize")?.checked_mul(1024)?,
            cpu_micros: seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000)?,
            threads: field("Threads")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        for (micros, seconds) in
            [(0, "0"), (500, "0.0005"), (1_000_000, "1"), (10_000_000, "10"), (1_234_567, "1.234567")]
        {
            assert_eq!(Seconds(micros).to_string(), seconds);
        }
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let taken = Process::look().expect("this is Linux");
        assert!(taken.resident > 1 << 20 && taken.reserved >= taken.resident && taken.threads >= 1);
    }
}
