//! `firm up`: a whole cloud on this box, in one process and its compile processes.
//!
//! Opens the data directory, founds what is missing in it (key, authority, first tenant, operator's token), serves,
//! and registers a context, so that the next `firm push` just works. SIGTERM and Ctrl-C drain; a second one stops.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auth::Minted;
use base::limits::{
    CONNECTIONS_PER_CLIENT_DEFAULT, DRAIN_TIME_DEFAULT, GUEST_MEMORY_BYTES_MIN, INSTANCES_MEMORY_PERCENT,
};
use base::{Bytes, Digest, Name, Span, TokenId};
use serde::Serialize;
use web::{Cloud, ListenError, Node, Otlp, Settings};

use crate::cli::contexts;
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::out::Out;
use crate::process::{self, Stop};

/// Options of `firm up`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm up\n  firm up --dir /srv/firm --port 443 --http-port 80 --listen 0.0.0.0 --domain cloud.example\n  firm up --json   # one object on standard output once it serves"
)]
pub struct UpArgs {
    /// Where everything is kept [default: firmament in the user's data directory]
    #[arg(long, env = "FIRM_DIR")]
    dir: Option<PathBuf>,
    /// Port for TLS: apps and the API
    #[arg(long, default_value_t = 8443, value_parser = port)]
    port: u16,
    /// Port for plain HTTP: redirects to TLS, or serves with --serve-plain
    #[arg(long, default_value_t = 8080, value_parser = port)]
    http_port: u16,
    /// Address to listen on; 0.0.0.0 or :: for every one
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Apps answer at APP.TENANT.DOMAIN, the API at api.DOMAIN
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// Serve apps over plain HTTP too. The API never is
    #[arg(long)]
    serve_plain: bool,
    /// The first tenant, made when the cloud is founded
    #[arg(long, default_value = "main")]
    first_tenant: Name,
    /// Requests in flight get so long when the box is told to stop
    #[arg(long, default_value_t = Span(DRAIN_TIME_DEFAULT))]
    drain: Span,
    /// A private address and port that apps may reach when their manifest names it; may be given again
    #[arg(long, value_name = "ADDRESS:PORT")]
    allow_private: Vec<SocketAddr>,
    /// Memory that all apps' instances may have together, such as 8GiB [default: half of the machine's]
    #[arg(long, value_name = "BYTES")]
    guest_memory: Option<Bytes>,
    /// Send spans of requests to this OpenTelemetry collector, by OTLP over HTTP, as in `http://127.0.0.1:4318`
    #[arg(long, value_name = "URL", env = "FIRM_OTLP")]
    otlp: Option<String>,
    /// The share of requests that get a span, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, requires = "otlp")]
    otlp_sample: f64,
    /// Connections that one client address (IPv6: one /64) may hold at once; 0 for any number, as behind a proxy
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_PER_CLIENT_DEFAULT)]
    connections_per_client: u32,
    /// The name of the context that is registered for this cloud
    #[arg(long, default_value = "local")]
    context_name: Name,
}

/// Not 0, by which the system would choose one that nobody knows.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| "a port is a whole number from 1 to 65535, as in 8443".to_owned())
}

/// What a script learns once the cloud serves.
#[derive(Serialize)]
struct Told<'a> {
    serving: bool,
    api: String,
    plain: SocketAddr,
    dir: &'a Path,
    authority: PathBuf,
    context: &'a Name,
    tenant: &'a Name,
    pid: u32,
}

/// Runs until told to stop.
pub fn run(args: &UpArgs, out: Out) -> Outcome {
    process::log_to_standard_error();
    let settings = settings(args)?;
    process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Refused, &error))?;
    let outcome = runtime.block_on(serve(args, settings, out));
    // What still follows or sweeps has nothing to finish: it finds its work again at the next start.
    runtime.shutdown_background();
    outcome
}

async fn serve(args: &UpArgs, settings: Settings, out: Out) -> Outcome {
    // Before anything else: a signal that comes while the cloud opens must not be lost, nor kill it half-way.
    let mut stop = Stop::new()?;
    let dir = settings.dir.clone();
    let cloud = Cloud::open(settings, None).map_err(|error| Failure::of(Exit::Refused, &error))?;
    let node = Node::start(Arc::clone(&cloud)).map_err(|error| not_listening(&error))?;
    let exporter = cloud.export();
    let token = operator_token(&dir)?;
    let founded = cloud.found(&args.first_tenant, &token).await.map_err(|error| Failure::of(Exit::Refused, &error))?;
    let tenant =
        cloud.record().tenants().next().map_or_else(|| args.first_tenant.clone(), |tenant| tenant.name.clone());
    register(args, &cloud, &token, &tenant, &out);
    say(args, &dir, &tenant, founded, &out)?;
    stop.asked().await;
    out.note("draining: requests in flight are finished, new ones refused; stop again to cut them");
    drop(cloud);
    let cut = tokio::select! {
        cut = node.drain(args.drain.0) => cut,
        () = stop.asked() => return Err(Failure::new(Exit::Interrupted, "stopped without waiting for requests in flight")),
    };
    if let Some(exporter) = exporter {
        exporter.close().await;
    }
    if cut > 0 {
        let connections = if cut == 1 { "1 connection was".to_owned() } else { format!("{cut} connections were") };
        out.warn(&format!("{connections} cut: it took longer than the {} of --drain", args.drain));
    }
    Ok(())
}

fn settings(args: &UpArgs) -> Outcome<Settings> {
    let domain = cloud_domain(&args.domain)?;
    let otlp = args.otlp.as_deref().map(|address| Otlp::new(address, args.otlp_sample)).transpose();
    let otlp = otlp.map_err(|error| Failure::of(Exit::Usage, &error))?;
    let compiler = process::compiler()?;
    if args.port == args.http_port {
        return Err(Failure::usage(format!("--port and --http-port are both {}", args.port))
            .help("TLS and plain HTTP each need a port of their own"));
    }
    let memory = process::machine_memory();
    let guest_memory = args.guest_memory.map_or(memory / 100 * INSTANCES_MEMORY_PERCENT, |bytes| bytes.0);
    if guest_memory < GUEST_MEMORY_BYTES_MIN {
        return Err(Failure::usage(format!("--guest-memory is {guest_memory} bytes, which no app can run in"))
            .help("give it 64MiB or more; a small component takes 2 MiB, JavaScript and Python 20 to 60"));
    }
    Ok(Settings {
        dir: data_dir(args.dir.as_deref())?,
        domain,
        tls: SocketAddr::new(args.listen, args.port),
        plain: SocketAddr::new(args.listen, args.http_port),
        serve_plain: args.serve_plain,
        connections_per_client: match args.connections_per_client {
            0 => u32::MAX,
            most => most,
        },
        compiler,
        private_hosts: args.allow_private.clone(),
        guest_memory,
        process_memory: process::process_memory(guest_memory, memory),
        otlp,
    })
}

/// The domain that a cloud's own names lie in.
pub(crate) fn cloud_domain(text: &str) -> Outcome<String> {
    let domain = text.trim_end_matches('.').to_lowercase();
    if firming::is_cloud_domain(&domain) {
        return Ok(domain);
    }
    Err(Failure::usage(format!("`{domain}` is not a domain"))
        .help("write a name such as cloud.example, or leave it out"))
}

/// The directory that was asked for, or the user's own for data (XDG Base Directory Specification).
fn data_dir(asked: Option<&Path>) -> Outcome<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let dir = asked.map(Path::to_owned).or_else(|| data().map(|data| data.join("firmament"))).ok_or_else(|| {
        Failure::usage("there is no home directory to keep the data in").help("say where: firm up --dir DIR")
    })?;
    std::path::absolute(&dir).map_err(|error| Failure::of(Exit::Refused, &error))
}

/// The operator's token of this box: drawn at the first start, kept where only its user may read it.
fn operator_token(dir: &Path) -> Outcome<Minted> {
    let path = dir.join("operator.token");
    let failed = |error: &dyn std::error::Error| {
        Failure::of(Exit::Refused, error)
            .help(format!("the operator's token is kept in {}: check that it can be read and written", path.display()))
    };
    match std::fs::read_to_string(&path) {
        Ok(secret) => {
            let secret = secret.trim().to_owned();
            let id = secret.split('_').nth(1).and_then(|id| id.parse::<TokenId>().ok());
            let id = id.ok_or_else(|| {
                Failure::new(Exit::Refused, format!("{} holds no token", path.display()))
                    .help("remove it: a new one is made")
            })?;
            let hash = Digest::of(secret.as_bytes());
            Ok(Minted { id, secret, hash })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let minted = web::mint_token().map_err(|error| failed(&error))?;
            web::write_private(&path, minted.secret.as_bytes()).map_err(|error| failed(&error))?;
            Ok(minted)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// A context that can't be written is no reason not to serve.
fn register(args: &UpArgs, cloud: &Cloud, token: &Minted, tenant: &Name, out: &Out) {
    let ip = match args.listen {
        every if every.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        one => one,
    };
    let context = api::Context {
        address: SocketAddr::new(ip, args.port).to_string(),
        also: Vec::new(),
        host: cloud.api_host().to_owned(),
        authority: cloud.authority_pem().to_owned(),
        token: token.secret.clone(),
        tenant: tenant.clone(),
    };
    match contexts::register(&args.context_name, context, true) {
        Ok(None) => {}
        Ok(Some(before)) => out.note(&format!(
            "Commands go to context {} from now on, no longer to {before}. Go back: firm context use {before}",
            args.context_name
        )),
        Err(error) => {
            out.warn(&format!(
                "no context was registered, so `firm push` won't find this cloud: {}",
                base::chain(&error)
            ));
        }
    }
}

fn say(args: &UpArgs, dir: &Path, tenant: &Name, founded: bool, out: &Out) -> Outcome {
    let authority = dir.join("authority.pem");
    let domain = &args.domain;
    let port = if args.port == 443 { String::new() } else { format!(":{}", args.port) };
    let api = format!("https://api.{domain}{port}");
    let told = Told {
        serving: true,
        api: api.clone(),
        plain: SocketAddr::new(args.listen, args.http_port),
        dir,
        authority: authority.clone(),
        context: &args.context_name,
        tenant,
        pid: std::process::id(),
    };
    out.answer(&told, |out| {
        let state = if founded { "A new cloud serves." } else { "The cloud serves." };
        out.line(&format!(
            "{state}\n  apps       https://APP.{tenant}.{domain}{port}/\n  API        {api}  (context {})\n  data       {}\n  \
             authority  {}  (browsers that trust it show no warning)\n\nNext:  firm new hello --template static && firm push hello",
            args.context_name,
            dir.display(),
            authority.display(),
        ))
    })
}

pub(crate) fn not_listening(error: &ListenError) -> Failure {
    let failure = Failure::of(Exit::Refused, error);
    match error {
        ListenError::Taken(address) => {
            let port = address.port();
            failure.help(format!(
                "see who has it with `ss -ltnp 'sport = :{port}'`, or choose others: firm up --port N --http-port M"
            ))
        }
        ListenError::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => failure
            .help("ports under 1024 need root or CAP_NET_BIND_SERVICE; choose others: firm up --port N --http-port M"),
        _ => failure,
    }
}
