#![allow(clippy::all, clippy::pedantic, clippy::print_stdout, clippy::unwrap_used)]
use base::*;
use bytes::Bytes as B;
use http_body_util::BodyExt;
use sandbox::*;
use std::collections::*;
use std::sync::{Arc, Mutex};
use std::time::*;

struct L(bool);
impl Log for L {
    fn line(&self, r: &str, s: Stream, t: &str) {
        if self.0 { println!("  [{r} {s:?}] {t}"); }
    }
}
#[derive(Default)]
struct Kv(Mutex<BTreeMap<(Bucket2, String), B>>);
type Bucket2 = (u64, u64, String);
fn b(b: &Bucket) -> Bucket2 { (b.tenant.0, b.database.0, b.name.to_string()) }
impl KeyValue for Kv {
    fn get<'a>(&'a self, k: &'a Bucket, key: String) -> Answer<'a, Option<B>> { Box::pin(async move { Ok(self.0.lock().unwrap().get(&(b(k), key)).cloned()) }) }
    fn set<'a>(&'a self, k: &'a Bucket, key: String, v: B) -> Answer<'a, ()> { Box::pin(async move { self.0.lock().unwrap().insert((b(k), key), v); Ok(()) }) }
    fn delete<'a>(&'a self, k: &'a Bucket, key: String) -> Answer<'a, ()> { Box::pin(async move { self.0.lock().unwrap().remove(&(b(k), key)); Ok(()) }) }
    fn exists<'a>(&'a self, k: &'a Bucket, key: String) -> Answer<'a, bool> { Box::pin(async move { Ok(self.0.lock().unwrap().contains_key(&(b(k), key))) }) }
    fn list_keys<'a>(&'a self, k: &'a Bucket, _: Option<String>) -> Answer<'a, KeyPage> { Box::pin(async move { Ok(KeyPage { keys: self.0.lock().unwrap().keys().filter(|x| x.0 == b(k)).map(|x| x.1.clone()).collect(), cursor: None }) }) }
    fn increment<'a>(&'a self, _: &'a Bucket, _: String, d: i64) -> Answer<'a, i64> { Box::pin(async move { Ok(d) }) }
    fn swap<'a>(&'a self, _: &'a Bucket, _: String, _: Option<B>, _: B) -> Answer<'a, Swap> { Box::pin(async { Ok(Swap::Done) }) }
    fn get_many<'a>(&'a self, _: &'a Bucket, _: Vec<String>) -> Answer<'a, Vec<Option<B>>> { Box::pin(async { Ok(vec![]) }) }
    fn set_many<'a>(&'a self, _: &'a Bucket, _: Vec<(String, B)>) -> Answer<'a, ()> { Box::pin(async { Ok(()) }) }
    fn delete_many<'a>(&'a self, _: &'a Bucket, _: Vec<String>) -> Answer<'a, ()> { Box::pin(async { Ok(()) }) }
}

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(|x| x.as_str()) == Some("compile") { return compile_process(); }
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async move {
        let t = Instant::now();
        let sb = Sandbox::new(Options { artifacts: "/tmp/trial-artifacts".into(), compiler: Compiler { program: std::env::current_exe().unwrap(), args: vec!["compile".into()] }, private_hosts: vec![] }).unwrap();
        println!("start {:?}", t.elapsed());
        let wasm = std::fs::read(&args[1]).unwrap();
        let t = Instant::now();
        let c = match sb.compile(TenantId(1), &wasm).await { Ok(c) => c, Err(e) => { println!("{}", chain(&e)); return } };
        println!("compile {:?} {:?} {} imports", t.elapsed(), c.flavour, c.imports.len());
        let t = Instant::now();
        let p = sb.load(TenantId(1), c.component).unwrap();
        println!("load {:?}", t.elapsed());
        let n: usize = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        let kv: Arc<dyn KeyValue> = Arc::new(Kv::default());
        let log: Arc<dyn Log> = Arc::new(L(n == 1));
        let hosts = std::env::var("HOSTS").unwrap_or_default();
        let outbound = Arc::new(Outbound::new(hosts.split(',').filter(|h| !h.is_empty()).map(|h| h.parse().unwrap()).collect()));
        let kvs: Arc<BTreeSet<Name>> = Arc::new(["notes".parse().unwrap()].into());
        let env: Arc<[(String, String)]> = vec![("A".to_owned(), "b".to_owned())].into();
        let config: Arc<BTreeMap<String, String>> = Arc::new([("S".to_owned(), "secret".to_owned())].into());
        let rid: Arc<str> = "r1".into();
        for path in &args[2..] {
            let t = Instant::now();
            let cpu0 = cpu();
            for i in 0..n {
                let cell = Cell { tenant: TenantId(1), database: DatabaseId(1), request: rid.clone(), kv: kvs.clone(), env: env.clone(), config: config.clone(), outbound: outbound.clone(),
                    memory: 128 << 20, cpu: Duration::from_secs(1), timeout: Duration::from_secs(3), log: log.clone(), store: kv.clone(), permit: None };
                let body = http_body_util::Full::new(B::from_static(b"ping")).map_err(|e| match e {}).boxed_unsync();
                let req = http::Request::builder().method(if path.starts_with("/echo") {"POST"} else {"GET"}).uri(format!("https://app.example{path}")).header("host", "app.example").body(body).unwrap();
                match sb.handle(&p, cell, req).await {
                    Ok(r) => {
                        let (h, mut body) = r.into_parts();
                        let mut len = 0; let mut text = String::new(); let mut end = String::from("end");
                        while let Some(f) = body.frame().await { match f { Ok(f) => if let Some(d) = f.data_ref() { len += d.len(); if text.len() < 300 { text.push_str(&String::from_utf8_lossy(d)); } }, Err(e) => { end = format!("ERR {e}"); break } } }
                        if i == 0 { println!("{path} -> {} {len} bytes {end} {:.200}", h.status, text.escape_debug().to_string()); }
                    }
                    Err(e) => if i == 0 { println!("{path} -> FAULT {e}") },
                }
            }
            println!("    {:?} each wall, {:?} cpu", t.elapsed() / n as u32, (cpu() - cpu0) / n as u32);
        }
    });
    std::process::ExitCode::SUCCESS
}
fn cpu() -> Duration { let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime); Duration::new(t.tv_sec as u64, t.tv_nsec as u32) }
