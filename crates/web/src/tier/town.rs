//! A cloud of several boxes in one process, for tests: each has its own disk, and what one asks another answers at once.
//!
//! Each box has a record of its own, which gets all commands in the same order: how they come to it is tried elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Instant;

use base::{CloudId, DatabaseId, Digest, Name, TenantId, Timestamp};
use persist::Keeping;
use sandbox::Compiler;
use state::{Actor, Admission, Command, Sealed};
use tempfile::TempDir;

use super::*;
use crate::cloud::{Place, Settings};

pub(crate) const TENANT: TenantId = TenantId(1);

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

/// What lies between the boxes.
#[derive(Default)]
struct Net {
    clouds: Mutex<BTreeMap<BoxId, Weak<Cloud>>>,
    cut: Mutex<BTreeSet<BoxId>>,
    asked: Mutex<Vec<(BoxId, Method)>>,
}

fn locked<T>(it: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A box's end of it.
struct End {
    me: BoxId,
    net: Arc<Net>,
}

impl Tier for End {
    fn me(&self) -> BoxId {
        self.me
    }

    fn nearby(&self) -> Vec<(BoxId, Vec<SocketAddr>)> {
        Vec::new()
    }

    fn know(&self, _: &Arc<Boxes>) {}

    fn vouch(&self, _: &[u8]) -> String {
        String::new()
    }

    fn is_vouched(&self, _: BoxId, _: &[u8], _: &str) -> bool {
        false
    }

    fn operators(&self) -> &BTreeSet<BoxId> {
        static NOBODY: BTreeSet<BoxId> = BTreeSet::new();
        &NOBODY
    }

    fn has_auth(&self) -> bool {
        false
    }

    fn keep_auth(&self) {}

    fn ask(&self, to: BoxId, method: Method, body: Bytes, within: Duration) -> Answered {
        let (me, net) = (self.me, Arc::clone(&self.net));
        Box::pin(async move {
            locked(&net.asked).push((to, method));
            let cut = || [me, to].iter().any(|end| locked(&net.cut).contains(end));
            if cut() {
                return Err(TierError::Unreachable("the cable is cut".to_owned()));
            }
            let cloud = locked(&net.clouds).get(&to).and_then(Weak::upgrade);
            let cloud = cloud.ok_or_else(|| TierError::Unreachable("nobody is there".to_owned()))?;
            let answered = tokio::time::timeout(within, cloud.answer(me, method, body)).await;
            if cut() {
                return Err(TierError::Unknown("the cable was cut".to_owned()));
            }
            answered.map_err(|_| TierError::Unknown("it takes too long".to_owned()))?.map_err(TierError::Refused)
        })
    }
}

pub(crate) struct Town {
    pub(crate) clouds: Vec<Arc<Cloud>>,
    net: Arc<Net>,
    pub(crate) dirs: Vec<TempDir>,
}

/// Its boxes by their roles, the first of them with persistence, and a tenant.
pub(crate) async fn town(roles: &[&str]) -> Town {
    town_with(roles, &|_| Compiler { program: "/bin/sh".into(), args: vec!["-c".into(), "exit 1".into()] }).await
}

pub(crate) async fn town_with(roles: &[&str], compiler: &dyn Fn(&Path) -> Compiler) -> Town {
    let net = Arc::new(Net::default());
    let dirs: Vec<_> = roles.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
    let open = |(number, dir): (usize, &TempDir)| {
        let me = id(number);
        let tier: Arc<dyn Tier> = Arc::new(End { me, net: Arc::clone(&net) });
        let roles = roles[number].parse().expect("roles");
        let place = Place { tier, roles, keeping: Keeping::Alone, known: Arc::default() };
        let cloud = Cloud::open(settings(dir.path(), compiler(dir.path())), Some(place)).expect("it opens");
        locked(&net.clouds).insert(me, Arc::downgrade(&cloud));
        cloud
    };
    let clouds: Vec<_> = dirs.iter().enumerate().map(open).collect();
    for cloud in &clouds {
        tokio::spawn(Arc::clone(cloud).follow());
    }
    let town = Town { clouds, net, dirs };
    let admission = |number: usize| Admission {
        id: id(number),
        roles: roles[number].parse().expect("roles"),
        labels: BTreeMap::new(),
        order: "a".to_owned(),
        warrant: None,
    };
    town.propose(Command::CloudFound {
        cloud: CloudId([7; 16]),
        name: name("hut"),
        domain: "localhost".to_owned(),
        operators: BTreeSet::from([BoxId([99; 32])]),
        first: admission(0),
        addresses: Vec::new(),
    })
    .await;
    for number in 1..roles.len() {
        town.propose(Command::BoxAdmit { admission: admission(number) }).await;
        town.propose(Command::BoxJoin { id: id(number), order: "a".to_owned(), addresses: Vec::new() }).await;
    }
    town.propose(Command::TenantCreate { name: name("acme"), key: Sealed(String::new()) }).await;
    assert_eq!(town.clouds[0].record().tenants().next().expect("made").id, TENANT);
    town
}

fn settings(dir: &Path, compiler: Compiler) -> Settings {
    Settings {
        dir: dir.to_owned(),
        domain: "localhost".to_owned(),
        tls: free(),
        plain: free(),
        serve_plain: true,
        connections_per_client: 64,
        compiler,
        private_hosts: Vec::new(),
        guest_memory: 1 << 30,
        process_memory: u64::MAX,
        otlp: None,
    }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("it listens")
}

pub(crate) fn id(number: usize) -> BoxId {
    BoxId([u8::try_from(number).expect("few boxes") + 1; 32])
}

impl Town {
    /// On every box.
    pub(crate) async fn propose(&self, command: Command) {
        for number in 0..self.clouds.len() {
            self.propose_on(number, command.clone()).await;
        }
    }

    pub(crate) async fn propose_on(&self, number: usize, command: Command) {
        self.clouds[number].propose(Actor::Box, command).await.expect("it is in order");
    }

    /// A release of the app `shop`, of which only the index's name is told.
    pub(crate) async fn release(&self, content: Digest) {
        self.release_on(0..self.clouds.len(), content).await;
    }

    pub(crate) async fn release_on(&self, boxes: std::ops::Range<usize>, content: Digest) {
        for number in boxes {
            self.propose_on(number, release(content)).await;
        }
    }

    pub(crate) fn database(&self) -> DatabaseId {
        let record = self.clouds[0].record();
        record.app(TENANT, "shop").and_then(|app| app.stage("live")).expect("pushed").database
    }

    pub(crate) fn cut(&self, number: usize) {
        locked(&self.net.cut).insert(id(number));
    }

    pub(crate) fn mend(&self, number: usize) {
        locked(&self.net.cut).remove(&id(number));
    }

    /// How often a box was asked this.
    pub(crate) fn asked(&self, number: usize, method: Method) -> usize {
        locked(&self.net.asked).iter().filter(|asked| **asked == (id(number), method)).count()
    }

    /// Lays bytes on one box's disk, as an upload does.
    pub(crate) fn upload(&self, number: usize, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let bytes = Bytes::copy_from_slice(bytes);
        self.clouds[number].store.chunks.put(TENANT, digest, &bytes).expect("there is room");
        digest
    }

    /// The boxes that have a chunk so that it outlives them.
    pub(crate) fn holding(&self, digest: Digest) -> Vec<usize> {
        let has = |number: &usize| self.clouds[*number].store.chunks.path(TENANT, digest).exists();
        (0..self.clouds.len()).filter(has).collect()
    }
}

pub(crate) fn release(content: Digest) -> Command {
    Command::ReleaseCreate {
        tenant: TENANT,
        app: name("shop"),
        stage: name("live"),
        content,
        manifest: Box::new(state::manifest::parse("", "firm.toml").expect("an empty manifest")),
        source: None,
    }
}

/// Every file below a folder.
pub(crate) fn walk(folder: &Path) -> BTreeSet<std::path::PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

/// Waits for a fact.
#[track_caller]
pub(crate) fn eventually(what: &'static str, mut fact: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !fact() {
            assert!(Instant::now() < deadline, "{caller}: not in half a minute: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1_000)
}
