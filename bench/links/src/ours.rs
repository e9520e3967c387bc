//! Two boxes of a cloud, and a link between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use base::{BoxId, Roles};
use bytes::Bytes;
use segment::authority::{Authority, Subject, SystemClock, draw_cloud};
use segment::link::{Class, Links, Pace};
use segment::{Identity, Trust};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::{BULK_BYTES_MIN, Kind};

#[derive(Clone)]
pub struct Caller {
    links: Links,
    to: BoxId,
}

impl Caller {
    pub async fn call(&mut self, kind: Kind, body: Bytes) -> Bytes {
        let class = if kind == Kind::Bulk { Class::Bulk } else { Class::Data };
        let deadline = Instant::now() + Duration::from_secs(10);
        self.links.call(self.to, class, 1, body, deadline).await.expect("answered")
    }
}

/// What the calling thread needs to begin.
pub struct Served {
    caller: Links,
    to: BoxId,
    address: SocketAddr,
}

pub async fn serve() -> Served {
    let now = SystemTime::now().into();
    let authority = Authority::found(draw_cloud().expect("random bytes"), now).expect("made");
    let a_box = || {
        let identity = Identity::generate().expect("a key");
        let certificate = authority.issue(identity.id(), &Roles::solo(), now).expect("issued");
        let trust = Trust::new(authority.root().clone());
        Links::new(&identity, &certificate, trust, |_: &Subject| true, SystemClock, Pace::of_limits()).expect("believed")
    };
    let (caller, answers) = (a_box(), a_box());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let to = answers.me();
    tokio::spawn(async move {
        answers
            .serve(listener, async |_, _, body: Bytes| Ok(if body.len() >= BULK_BYTES_MIN { Bytes::new() } else { body }))
            .await;
    });
    Served { caller, to, address }
}

pub async fn call(served: Served) -> Caller {
    served.caller.set_addresses(served.to, vec![served.address]).expect("an address");
    Caller { links: served.caller, to: served.to }
}
