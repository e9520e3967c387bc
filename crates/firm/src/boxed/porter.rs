//! What the box answers to those who knock.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use base::limits::{BOX_ADDRESSES_MAX, BOX_ORDER_TIME_MAX, KNOCK_PORT, LINK_PORT_AFTER, ORDERS_REFUSED_TOLD_EVERY};
use base::{BoxId, Role, Timestamp};
use firming::{NotTaken, OrderId, Standing, Then};
use persist::ProposeError;
use segment::knock::{About, Call, Caller, Hardware, Porter, Refused, RefusedCode, Reply, read_order};
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use web::{AccessWish, Cloud};

use super::Brought;
use super::console::Console;
use super::disk::Setup;
use super::others::Others;
use super::papers;

/// What an operator who knocks at a firm box is given access to.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) cloud: Arc<Cloud>,
    pub(super) others: Arc<Others>,
    pub(super) setup: Setup,
    /// Where the node keeps its data.
    pub(super) node: PathBuf,
    pub(super) port: u16,
}

/// What the life of a box tells its door.
pub(super) struct Shared {
    told: Mutex<ToldOf>,
    seal: Option<BoxId>,
}

struct ToldOf {
    about: About,
    standing: Standing,
    access: Option<Access>,
}

pub(super) fn about(id: BoxId, hardware: Hardware, since: Timestamp) -> About {
    About {
        id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        standing: Standing::Blank.word().to_owned(),
        why: None,
        cloud: None,
        cloud_name: None,
        roles: None,
        hardware,
        since,
    }
}

impl Shared {
    pub(super) fn new(about: About, seal: Option<BoxId>, standing: Standing) -> Self {
        Self { told: Mutex::new(ToldOf { about, standing, access: None }), seal }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, ToldOf> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn about(&self) -> About {
        self.told().about.clone()
    }

    pub(super) fn set_standing(&self, standing: &Standing, why: Option<&str>) {
        let mut told = self.told();
        let (cloud, name, roles) = match standing {
            Standing::Firm(it) | Standing::Resetting { left: Some(it), .. } => {
                (Some(it.cloud), Some(it.name.clone()), Some(it.roles.clone()))
            }
            Standing::Firming { task, .. } | Standing::Resetting { then: Then::Firm(task), .. } => {
                let it = &task.assignment;
                (Some(it.cloud), Some(it.name.clone()), Some(it.roles.clone()))
            }
            Standing::Blank | Standing::Resetting { .. } => (None, None, None),
        };
        let about = &mut told.about;
        (about.cloud, about.cloud_name, about.roles) = (cloud, name, roles);
        standing.word().clone_into(&mut about.standing);
        about.why = why.map(str::to_owned);
        told.standing = standing.clone();
    }

    pub(super) fn set_cloud(&self, access: Option<Access>) {
        self.told().access = access;
    }
}

pub(super) struct BoxPorter {
    shared: Arc<Shared>,
    bring: mpsc::Sender<Brought>,
    console: Console,
    /// When refusals were last told of, and how many there were since.
    refusals: Mutex<(Option<Instant>, u64)>,
}

impl BoxPorter {
    pub(super) fn new(shared: Arc<Shared>, bring: mpsc::Sender<Brought>, console: Console) -> Self {
        Self { shared, bring, console, refusals: Mutex::default() }
    }

    async fn order(&self, caller: &Caller, signed: &segment::knock::SignedOrder) -> Result<Reply, Refused> {
        let signer = caller.introduction.with;
        let order = read_order(signed, &caller.introduction)?;
        let obeys = self.shared.told().standing.obeys(self.shared.seal, signer);
        if let Err(refused) = obeys {
            self.refused(caller, &refused);
            return Err(Refused::no(refused.to_string()));
        }
        tracing::info!(from = %signer.long_name(), address = %caller.address, order = order.id.0, "an order");
        let (taken, answer) = oneshot::channel();
        self.bring
            .try_send(Brought { order, signer, taken })
            .map_err(|_| Refused::not_now("the box has more orders than it can look at: try again in a moment"))?;
        let answer = tokio::time::timeout(BOX_ORDER_TIME_MAX, answer).await;
        match answer {
            Ok(Ok(Ok(()))) => Ok(Reply::Taken),
            Ok(Ok(Err(refused))) => Err(Refused::no(refused.to_string())),
            Ok(Err(_)) | Err(_) => {
                Err(Refused::not_now("the box is busy, and whether it took the order shows `firm boxes`"))
            }
        }
    }

    /// Says that somebody was refused, but not as often as strangers like.
    fn refused(&self, caller: &Caller, why: &NotTaken) {
        let mut last = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        last.1 += 1;
        if last.0.is_none_or(|at: Instant| at.elapsed() >= ORDERS_REFUSED_TOLD_EVERY) {
            let (from, address) = (caller.introduction.with.long_name(), caller.address);
            tracing::warn!(%from, %address, orders = last.1, "orders were refused, lately: {why}");
            *last = (Some(Instant::now()), 0);
        }
    }

    /// The node of a firm box that keeps the record.
    fn keeper(&self) -> Result<Access, Refused> {
        let told = self.shared.told();
        match &told.standing {
            Standing::Firm(membership) if membership.roles.has(Role::Persistence) => {
                told.access.clone().ok_or_else(|| Refused::not_now("this box's node is starting"))
            }
            standing => Err(Refused::not_now(format!("this box is {}, and keeps no record", standing.word()))),
        }
    }

    /// Lets in a box that an operator admitted, and gives it what it works with.
    async fn join(&self, caller: &Caller, order: OrderId, addresses: Vec<SocketAddr>) -> Result<Reply, Refused> {
        let id = caller.introduction.with;
        let Access { cloud, others, setup, node, .. } = self.keeper()?;
        let boxes = cloud.record().boxes().cloned().ok_or_else(|| Refused::not_now("the record isn't here yet"))?;
        if boxes.evicted.contains_key(&id) {
            return Err(evicted());
        }
        // Looked at before it is proposed: a stranger must not fill the record's log.
        if boxes.boxes.get(&id).is_none_or(|it| it.order != order.0) {
            return Err(Refused::not_now(
                "no operator has admitted this box with this order, or it isn't known here yet",
            ));
        }
        let addresses = reached_at(caller.address, addresses);
        let it = match cloud.box_joins(id, order.0, addresses).await {
            Ok(it) => it.ok_or_else(|| Refused::not_now("the box was put out meanwhile"))?,
            Err(ProposeError::Refused(state::Refusal::Evicted(_))) => return Err(evicted()),
            Err(ProposeError::Refused(refusal)) => return Err(Refused::no(refusal.to_string())),
            Err(error) => return Err(Refused::not_now(base::chain(&error))),
        };
        let first =
            cloud.record().boxes().map(|boxes| boxes.with(Role::Persistence).map(|it| (**it).clone()).collect());
        let papers = others.papers();
        let welcome = papers::welcome(&node, setup, &papers, (id, &it.roles), first.unwrap_or_default(), now());
        let welcome = welcome.map_err(|error| {
            tracing::error!(error = base::chain(&error), "a box can't be given what it needs to join");
            Refused::not_now(base::chain(&error))
        })?;
        tracing::info!(id = %id.long_name(), roles = %it.roles, address = %caller.address, "a box has joined");
        serde_json::to_value(&welcome).map(Reply::Joined).map_err(|error| Refused::no(error.to_string()))
    }

    async fn leave(&self, caller: &Caller, order: &OrderId) -> Result<Reply, Refused> {
        let id = caller.introduction.with;
        let Access { cloud, .. } = self.keeper()?;
        let is_it = |boxes: &Arc<state::Boxes>| boxes.boxes.get(&id).is_some_and(|it| it.order == order.0);
        if !cloud.record().boxes().is_some_and(is_it) {
            return Ok(Reply::Left);
        }
        match cloud.box_leaves(id).await {
            Ok(()) => Ok(Reply::Left),
            Err(ProposeError::Refused(refusal)) => Err(Refused::no(refusal.to_string())),
            Err(error) => Err(Refused::not_now(base::chain(&error))),
        }
    }

    async fn access(&self, caller: &Caller, wish: serde_json::Value) -> Result<Reply, Refused> {
        let operator = caller.introduction.with;
        let (standing, access) = {
            let told = self.shared.told();
            (told.standing.clone(), told.access.clone())
        };
        let Standing::Firm(membership) = &standing else {
            return Err(Refused::not_now(format!("this box is {}, and no cloud's yet", standing.word())));
        };
        if !membership.operators.contains(&operator) {
            return Err(Refused::no(format!("your key is none of cloud {}'s operators'", membership.name)));
        }
        let why = self.shared.about().why.unwrap_or_else(|| "it is starting".to_owned());
        let access = access.ok_or_else(|| Refused::not_now(format!("the node doesn't run yet: {why}")))?;
        let wish: AccessWish = serde_json::from_value(wish).map_err(|_| {
            Refused::no("the wish for access can't be read: are the box and the program of one version?")
        })?;
        if wish.by != operator {
            return Err(Refused::no("the wish for access is another operator's"));
        }
        let token = access.cloud.operator_access(wish).await.map_err(|error| {
            tracing::error!(error = base::chain(&error), "no token can be made for an operator");
            Refused::not_now(base::chain(&error))
        })?;
        let context = api::Context {
            // Where to reach it the visitor knows: it is here.
            address: format!(":{}", access.port),
            also: Vec::new(),
            host: access.cloud.api_host().to_owned(),
            authority: access.cloud.authority_pem().to_owned(),
            token: token.secret,
            tenant: access.setup.tenant,
        };
        serde_json::to_value(&context).map(Reply::Access).map_err(|error| Refused::no(error.to_string()))
    }
}

fn evicted() -> Refused {
    Refused { code: RefusedCode::Evicted, words: "this cloud has put the box out for good".to_owned() }
}

/// Where the box says that it is, and first of all where it was seen to be.
fn reached_at(seen: SocketAddr, mut said: Vec<SocketAddr>) -> Vec<SocketAddr> {
    said.truncate(BOX_ADDRESSES_MAX);
    let ip = seen.ip().to_canonical();
    let is_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !is_local {
        let port = said.first().map_or(KNOCK_PORT + LINK_PORT_AFTER, SocketAddr::port);
        said.retain(|address| address.ip() != ip);
        said.insert(0, SocketAddr::new(ip, port));
    }
    said
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Porter for BoxPorter {
    fn introduced(&self, caller: &Caller) {
        self.console.introduced(caller);
    }

    async fn answer(&self, caller: &Caller, call: Call) -> Result<Reply, Refused> {
        match call {
            Call::About => Ok(Reply::About(Box::new(self.shared.about()))),
            Call::Order { order } => self.order(caller, &order).await,
            Call::Access { wish } => self.access(caller, wish).await,
            Call::Join { order, addresses } => self.join(caller, order, addresses).await,
            Call::Leave { order } => self.leave(caller, &order).await,
        }
    }
}
