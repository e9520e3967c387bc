//! Handshakes: who must not be spoken with isn't, whichever side they are on.

use tokio_rustls::TlsAcceptor;

use super::*;

/// Somebody who wants to be a box, with what they show. Certificates that a box of ours would not even start with are
/// shown by hand.
struct Stranger {
    what: &'static str,
    beliefs: Arc<Beliefs>,
    shown: Arc<Shown>,
    id: BoxId,
    /// What the side that judges says.
    said: &'static str,
}

fn stranger(
    what: &'static str,
    cloud: &Cloud,
    identity: &Identity,
    certificate: &Certificate,
    said: &'static str,
) -> Stranger {
    let shown = Arc::new(Shown::new(identity, certificate).expect("a key"));
    Stranger { what, beliefs: cloud.beliefs(), shown, id: identity.id(), said }
}

fn identity() -> Identity {
    Identity::generate().expect("a key")
}

/// All who must be turned away from `cloud`.
fn strangers(cloud: &Cloud) -> Vec<Stranger> {
    let mut all = Vec::new();
    let foreign = Cloud::new();
    let me = identity();
    all.push(stranger("of another cloud", cloud, &me, &foreign.issue(me.id()), "UnknownIssuer"));

    let rogue = Authority::found(cloud.authority.cloud(), NOW).expect("made");
    let forged = rogue.issue(me.id(), &Roles::solo(), NOW).expect("issued");
    all.push(stranger("of a root with our cloud's name", cloud, &me, &forged, "UnknownIssuer"));

    let (me, other) = (identity(), identity());
    let mut thief =
        stranger("with the certificate of another box", cloud, &me, &cloud.issue(other.id()), "BadSignature");
    thief.id = other.id();
    all.push(thief);

    let me = identity();
    cloud.evict(me.id());
    all.push(stranger("evicted", cloud, &me, &cloud.issue(me.id()), "not admitted"));

    let me = identity();
    let old = before(NOW, CERTIFICATE_LIFE + CLOCK_SKEW_MAX * 2 + Duration::from_secs(1));
    let expired = cloud.authority.issue(me.id(), &Roles::solo(), old).expect("issued");
    all.push(stranger("expired beyond the skew", cloud, &me, &expired, "CertExpired"));

    let me = identity();
    let early = NOW.plus(CLOCK_SKEW_MAX * 2 + Duration::from_secs(1));
    let future = cloud.authority.issue(me.id(), &Roles::solo(), early).expect("issued");
    all.push(stranger("of tomorrow", cloud, &me, &future, "CertNotValidYet"));

    let me = identity();
    let mut altered = cloud.authority.issue(me.id(), &Role::Web.into(), NOW).expect("issued");
    let at = altered.der.windows(4).position(|bytes| bytes == b"/web").expect("the role is in it");
    altered.der[at + 1..at + 4].copy_from_slice(b"wea");
    all.push(stranger("with a role that was altered", cloud, &me, &altered, "InvalidSignatureForPublicKey"));
    all
}

#[tokio::test]
async fn who_dials_is_judged() {
    let cloud = Cloud::new();
    let answers = cloud.a_box();
    let address = listen(&answers.links, |_, _, _| async { panic!("nobody is to be heard") }).await;
    for stranger in strangers(&cloud) {
        let config = tls::client(&stranger.beliefs, &stranger.shown, answers.id(), Class::Control);
        let turned_away = knock(address, config, Class::Control).await.err();
        assert!(turned_away.is_some(), "{} got in", stranger.what);
    }
    assert_eq!(answers.links.accepted(), 0);
}

#[tokio::test]
async fn who_is_dialled_is_judged() {
    for number in 0..strangers(&Cloud::new()).len() {
        let cloud = Cloud::new();
        let stranger = strangers(&cloud).remove(number);
        // It lets anybody in: it must not get as far.
        let anybody = Arc::new(Beliefs {
            trust: ArcSwap::from_pointee(cloud.trust.clone()),
            admission: Arc::new(|_: &Subject| true),
            clock: Arc::new(Hand::at(NOW)),
        });
        let config = tls::server(&anybody, &stranger.shown);
        let (address, heard) = rogue(config).await;
        let caller = cloud.a_box();
        caller.links.set_addresses(stranger.id, vec![address]).expect("an address");
        let failed = caller.links.call(stranger.id, Class::Control, 1, "secret".into(), soon()).await;
        let Err(CallError::Unreachable { why: Unreachable::Dial(why), .. }) = &failed else {
            panic!("{}: {failed:?}", stranger.what)
        };
        assert!(base::chain(&**why).contains(stranger.said), "{}: {}", stranger.what, base::chain(&**why));
        assert!(!heard.load(Ordering::SeqCst), "{} heard something", stranger.what);
    }
}

/// Serves TLS by hand, welcomes whoever comes, and notes whether it is told anything.
async fn rogue(config: Arc<rustls::ServerConfig>) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let heard = Arc::new(AtomicBool::new(false));
    let noted = heard.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = TlsAcceptor::from(config.clone()).accept(buffered(socket)).await else { continue };
            let mut wire = Wire::new(stream.into(), LINK_CONTROL_BYTES_MAX);
            wire.push(&Head::welcome(), Bytes::new());
            let _ = write(&mut wire).await;
            noted.fetch_or(hear(&mut wire).await.is_ok(), Ordering::SeqCst);
        }
    });
    (address, heard)
}

#[tokio::test]
async fn a_good_box_that_isnt_the_one_that_was_wanted_is_refused() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    let other = cloud.a_box();
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    caller.links.set_addresses(other.id(), vec![address]).expect("an address");
    let failed = caller.call(&other, Class::Control, b"for the other").await;
    let Err(CallError::Unreachable { why: Unreachable::Dial(why), .. }) = &failed else { panic!("{failed:?}") };
    assert!(why.to_string().contains(&other.id().to_string()), "{why}");
    caller.call(&answers, Class::Control, b"").await.expect("answered");
}

#[tokio::test]
async fn who_shows_nothing_or_speaks_something_else_is_turned_away() {
    let cloud = Cloud::new();
    let answers = cloud.a_box();
    let address = listen(&answers.links, |_, _, _| async { panic!("nobody is to be heard") }).await;
    let (beliefs, me) = (cloud.beliefs(), identity());
    let shown = Arc::new(Shown::new(&me, &cloud.issue(me.id())).expect("a key"));
    let good = || ClientConfig::clone(&tls::client(&beliefs, &shown, answers.id(), Class::Control));

    let mut without = good();
    without.client_auth_cert_resolver = Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(Arc::new(
        rustls::sign::CertifiedKey::new(Vec::new(), rustls_key(&me)),
    )));
    let mut bare = good();
    bare.client_auth_cert_resolver = Arc::new(Nothing);
    let mut no_class = good();
    no_class.alpn_protocols = Vec::new();
    let mut other_class = good();
    other_class.alpn_protocols = vec![b"h2".to_vec()];
    for (what, config) in [("raw key", without), ("no certificate", bare), ("no ALPN", no_class), ("h2", other_class)] {
        assert!(knock(address, Arc::new(config), Class::Control).await.is_err(), "{what} got in");
    }

    let mut classical = rustls::crypto::aws_lc_rs::default_provider();
    classical.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let classical = ClientConfig::builder_with_provider(Arc::new(classical))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_cert_resolver(shown.clone());
    assert!(knock(address, Arc::new(classical), Class::Control).await.is_err(), "a key exchange of yesterday got in");
    assert_eq!(answers.links.accepted(), 0);

    knock(address, Arc::new(good()), Class::Control).await.expect("it is the rest that was refused");
}

fn rustls_key(identity: &Identity) -> Arc<dyn rustls::sign::SigningKey> {
    let der = rustls::pki_types::PrivateKeyDer::Pkcs8(identity.tls_key().expect("a key"));
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).expect("a key")
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn clocks_may_be_off_to_opposite_sides() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.clock.set(before(NOW, CLOCK_SKEW_MAX));
    answers.clock.set(NOW.plus(CLOCK_SKEW_MAX));
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    // At the end of its life, by a clock that is late and one that is early.
    caller.clock.set(before(NOW.plus(CERTIFICATE_LIFE), CLOCK_SKEW_MAX));
    answers.clock.set(NOW.plus(CERTIFICATE_LIFE + CLOCK_SKEW_MAX));
    caller.call(&answers, Class::Control, b"").await.expect("answered");
}

#[test]
fn a_box_doesnt_start_with_what_others_wont_believe() {
    let cloud = Cloud::new();
    let (me, other) = (identity(), identity());
    let start = |certificate: &Certificate, now| {
        Links::new(&me, certificate, cloud.trust.clone(), cloud.admission(), Hand::at(now), quick())
    };
    let good = cloud.issue(me.id());
    assert!(start(&good, NOW).is_ok());
    assert!(matches!(start(&cloud.issue(other.id()), NOW), Err(LinksError::Other { .. })));
    let late = NOW.plus(CERTIFICATE_LIFE * 2);
    assert!(matches!(start(&good, late), Err(LinksError::Certificate(_))));
    assert!(matches!(start(&Cloud::new().issue(me.id()), NOW), Err(LinksError::Certificate(_))));
}

#[tokio::test]
async fn an_eviction_ends_links_at_once_on_both_sides() {
    let cloud = Cloud::new();
    let stuck = Arc::new(Notify::new());
    let (begun, begins) = (Arc::new(Notify::new()), stuck.clone());
    let has_begun = begun.clone();
    let (caller, answers) = cloud
        .pair(move |_, _, body| {
            let (begun, stuck) = (begun.clone(), begins.clone());
            async move {
                if body == "stuck" {
                    begun.notify_one();
                    stuck.notified().await;
                }
                Ok(body)
            }
        })
        .await;
    caller.call(&answers, Class::Control, b"").await.expect("answered");
    let in_flight = caller.call(&answers, Class::Data, b"stuck");
    let evicted = async {
        has_begun.notified().await;
        cloud.evict(caller.id());
        // The record of the box that answers says so; the evicted one knows of nothing.
        answers.links.judge_all();
    };
    let (in_flight, ()) = tokio::join!(in_flight, evicted);
    assert!(matches!(in_flight, Err(CallError::Unknown { why: Unknown::Broken(_), .. })), "{in_flight:?}");
    until("no link of it stands", || answers.links.accepted() == 0).await;
    let again = caller.call(&answers, Class::Data, b"").await;
    assert!(matches!(again, Err(CallError::Unreachable { .. })), "{again:?}");

    // The other way: who calls hears that who answers is evicted.
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Control, b"").await.expect("answered");
    cloud.evict(answers.id());
    let refused = caller.call(&answers, Class::Control, b"").await;
    assert!(matches!(refused, Err(CallError::Unreachable { why: Unreachable::NotAdmitted, .. })), "{refused:?}");
    caller.links.drop_box(answers.id());
    assert!(caller.links.states().is_empty());
    until("its connection ends", || answers.links.accepted() == 0).await;
}

#[tokio::test]
async fn each_call_is_judged_before_the_connection_is() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    // Of the caller's own record, which has not heard of its eviction, nothing is to be expected: by hand.
    let anybody = Arc::new(Beliefs {
        trust: ArcSwap::from_pointee(cloud.trust.clone()),
        admission: Arc::new(|_: &Subject| true),
        clock: Arc::new(Hand::at(NOW)),
    });
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let config = tls::client(&anybody, &shown, answers.id(), Class::Data);
    let mut wire = knock(address, config, Class::Data).await.expect("welcome");
    say(&mut wire, &Head::call(0, 1, 1000, 0), b"").await;
    assert!(matches!(hear(&mut wire).await, Ok(Frame::Answer { id: 0, .. })));
    // Nobody tells the connections.
    cloud.evict(caller.id());
    say(&mut wire, &Head::call(1, 1, 1000, 0), b"").await;
    assert!(hear(&mut wire).await.is_err());
}
