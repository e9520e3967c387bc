//! The node of a firm box, within the box's process: a cloud's first box, or one of several.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::limits::{
    BOX_MOVED_LOOK, CONNECTIONS_PER_CLIENT_DEFAULT, INSTANCES_MEMORY_PERCENT, LINK_PORT_AFTER, OUT_OF_TOUCH,
};
use base::{BoxId, Role};
use firming::Membership;
use persist::Keeping;
use persist::record::{Group, Peers, Start};
use segment::authority::SystemClock;
use segment::{Clock as _, Gday, Identity};
use state::{Admission, Signed};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use web::{Cloud, Node, Place, Settings, Tier};

use super::disk::Setup;
use super::doors;
use super::others::{self, Others};
use super::papers::{self, Papers};
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};
use crate::process;
use crate::up::not_listening;

/// Where the node listens.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) listen: IpAddr,
    pub(super) tls: u16,
    pub(super) plain: u16,
    pub(super) knock: u16,
}

impl Ports {
    /// Where the links of this box's cloud are listened for.
    pub(super) fn links(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.knock.saturating_add(LINK_PORT_AFTER))
    }

    /// Where other boxes dial it.
    pub(super) fn dialled(&self) -> Vec<SocketAddr> {
        let port = self.links().port();
        let ips = if self.listen.is_unspecified() { segment::own_addresses() } else { vec![self.listen] };
        ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }
}

/// A node that serves.
pub(super) struct BoxNode {
    cloud: Arc<Cloud>,
    node: Node,
    others: Arc<Others>,
    /// Ends with the node.
    _links: LinksRuntime,
    beside: Vec<tokio::task::JoinHandle<()>>,
}

/// The runtime of the links, which ends without waiting: it may be dropped where nothing may block.
struct LinksRuntime(Option<Runtime>);

impl LinksRuntime {
    fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle().clone()
    }
}

impl Drop for LinksRuntime {
    fn drop(&mut self) {
        if let Some(links) = self.0.take() {
            links.shutdown_background();
        }
    }
}

/// What a box's node starts from.
pub(super) struct Beginning<'a> {
    pub(super) dir: PathBuf,
    pub(super) identity: &'a Identity,
    pub(super) membership: &'a Membership,
    pub(super) setup: &'a Setup,
    pub(super) papers: Papers,
    pub(super) ports: Ports,
    pub(super) gday: Option<Arc<Gday>>,
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::of(Exit::Refused, error)
}

impl BoxNode {
    /// Opens what the disk holds and serves.
    pub(super) async fn start(beginning: Beginning<'_>) -> Outcome<Self> {
        let Beginning { dir, identity, membership, setup, papers, ports, gday } = beginning;
        let known = others::nothing_known();
        if !papers.first.is_empty() {
            let first = papers::known_from(membership.cloud, &membership.name, &setup.domain, &papers);
            known.store(Some(Arc::new(first)));
        }
        let links = LinksRuntime(Some(others::runtime().map_err(|error| failed(&error))?));
        let operators: BTreeSet<BoxId> = membership.operators.iter().copied().collect();
        let first: Vec<BoxId> = papers.first.iter().map(|it| it.id).collect();
        let others = Others::new(identity, operators, papers, dir.clone(), &known, links.handle(), gday);
        let others = others.map_err(|error| failed(&error))?;
        let peers = Arc::clone(&others) as Arc<dyn Peers>;
        let me = identity.id();
        let keeping = if membership.roles.has(Role::Persistence) {
            let start = if setup.founder { Start::Found } else { Start::Join };
            Keeping::InGroup(Group { me, start, peers })
        } else {
            Keeping::Following { me, peers, first }
        };
        let place =
            Place { tier: Arc::clone(&others) as Arc<dyn Tier>, roles: membership.roles.clone(), keeping, known };
        let cloud = Cloud::open(settings(dir, setup, ports)?, Some(place)).map_err(|error| failed(&error))?;
        let address = ports.links();
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::new(
                Exit::Refused,
                format!("the links of this box's cloud can't be listened for at {address}: {error}"),
            )
        })?;
        // It was made on this runtime, and is served on that of the links.
        let listener = listener.into_std().map_err(|error| failed(&error))?;
        let listener = {
            let handle = links.handle();
            let _links = handle.enter();
            TcpListener::from_std(listener).map_err(|error| failed(&error))?
        };
        others.serve(listener, Arc::clone(&cloud));
        let node = Node::start(Arc::clone(&cloud)).map_err(|error| not_listening(&error))?;
        if setup.founder {
            found(&cloud, membership, setup, me, &ports).await?;
        }
        let beside = vec![
            tokio::spawn(Arc::clone(&others).renew()),
            tokio::spawn(tell_where(Arc::clone(&cloud), me, ports)),
            tokio::spawn(ask_whether_out(
                Arc::clone(&cloud),
                Arc::clone(&others),
                identity.clone(),
                membership.order.clone(),
                ports,
            )),
        ];
        Ok(Self { cloud, node, others, _links: links, beside })
    }

    pub(super) fn cloud(&self) -> Arc<Cloud> {
        Arc::clone(&self.cloud)
    }

    pub(super) fn others(&self) -> Arc<Others> {
        Arc::clone(&self.others)
    }

    /// Waits until the node is no more, and says why.
    pub(super) async fn died(&mut self) -> String {
        self.node.failed().await
    }

    /// Waits until the cloud has put this box out.
    pub(super) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let others = Arc::clone(&self.others);
        async move { others.evicted().await }
    }

    pub(super) async fn stop(mut self, drain: Duration) {
        for task in self.beside.drain(..) {
            task.abort();
        }
        drop(self.cloud);
        let cut = self.node.drain(drain).await;
        if cut > 0 {
            tracing::warn!(cut, "connections were cut: they took longer than the drain");
        }
        // The last: the record says goodbye over them.
        self.others.close();
    }
}

fn settings(dir: PathBuf, setup: &Setup, ports: Ports) -> Outcome<Settings> {
    let memory = process::machine_memory();
    let guest_memory = memory / 100 * INSTANCES_MEMORY_PERCENT;
    Ok(Settings {
        dir,
        domain: setup.domain.clone(),
        tls: SocketAddr::new(ports.listen, ports.tls),
        plain: SocketAddr::new(ports.listen, ports.plain),
        serve_plain: false,
        connections_per_client: CONNECTIONS_PER_CLIENT_DEFAULT,
        compiler: process::compiler()?,
        private_hosts: Vec::new(),
        guest_memory,
        process_memory: process::process_memory(guest_memory, memory),
        otlp: None,
    })
}

/// Makes the record say what this box is, and the first tenant, where they aren't there yet.
async fn found(cloud: &Cloud, membership: &Membership, setup: &Setup, me: BoxId, ports: &Ports) -> Outcome {
    if cloud.record().boxes().is_none() {
        let first = Admission {
            id: me,
            roles: membership.roles.clone(),
            labels: membership.labels.clone(),
            order: membership.order.0.clone(),
            warrant: membership
                .warrant
                .as_ref()
                .map(|warrant| Signed { by: warrant.by, signature: warrant.signature.clone() }),
        };
        let operators: BTreeSet<BoxId> = membership.operators.iter().copied().collect();
        let founded = cloud.found_boxes((membership.cloud, membership.name.clone()), operators, first, ports.dialled());
        founded.await.map_err(|error| failed(&error))?;
    }
    cloud.found_tenant(&setup.tenant).await.map_err(|error| failed(&error))
}

/// Tells the cloud where this box is whenever that changes.
async fn tell_where(cloud: Arc<Cloud>, me: BoxId, ports: Ports) {
    // What this box said last: two with one key would otherwise contradict each other for ever.
    let mut said: Option<Vec<SocketAddr>> = None;
    loop {
        tokio::time::sleep(BOX_MOVED_LOOK).await;
        let held = cloud.record().boxes().and_then(|boxes| boxes.boxes.get(&me)).map(|it| it.addresses.clone());
        let now = ports.dialled();
        // None while a cable is out: where it was is where it will be.
        if now.is_empty() || said.as_ref() == Some(&now) || held.is_none_or(|held| held == now) {
            continue;
        }
        match cloud.box_moved(me, now.clone()).await {
            Ok(()) => {
                said = Some(now);
                tracing::info!("the cloud was told where this box is by now");
            }
            Err(error) => tracing::warn!("the cloud can't be told where this box is: {}", base::chain(&error)),
        }
    }
}

/// Asks at the cloud's doors whether this box is still of it, while it hears of no leader: others end the links of a box
/// that is out, and don't say why.
async fn ask_whether_out(
    cloud: Arc<Cloud>,
    others: Arc<Others>,
    identity: Identity,
    order: firming::OrderId,
    ports: Ports,
) {
    loop {
        tokio::time::sleep(OUT_OF_TOUCH).await;
        if cloud.leaderless().is_none_or(|time| time < OUT_OF_TOUCH) {
            continue;
        }
        let doors = doors::doors_of(&others.papers().first);
        if let doors::Asked::Evicted = doors::ask_in(&identity, &doors, &order, ports).await {
            others.is_out();
        }
    }
}

/// Is the box's certificate over, which it needs to speak with the others?
pub(super) fn needs_papers(papers: &Papers) -> bool {
    others::is_over(&papers.certificate, SystemClock.now())
}
