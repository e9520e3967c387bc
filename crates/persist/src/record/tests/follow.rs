//! Boxes that keep the record without a vote.

use std::time::{Duration, Instant};

use base::limits::{COMMANDS_PER_SNAPSHOT, PROPOSE_TIME_MAX};

use super::cluster::{Cluster, Link, id, many, until};
use super::*;

const WEB: u8 = 9;

fn follow(cluster: &Cluster, dir: &Path) -> Keeper {
    let peers = Arc::new(Link { me: id(WEB), net: Arc::clone(&cluster.net) });
    Keeper::follow(dir, id(WEB), peers, &cluster.ids()).expect("its disk is whole")
}

async fn sees(keeper: &Keeper, name: &str) {
    until(|| keeper.record().tenant_named(name).map(|_| ())).await;
}

#[tokio::test]
async fn a_follower_keeps_up_proposes_and_serves_on() {
    let cluster = Cluster::of(3, 20).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    cluster.keeper(1).propose(tenant("before")).await.expect("all are there");
    let web = follow(&cluster, dir.path());
    sees(&web, "before").await;
    let (_, mut news) = web.subscribe();
    // It proposes as any other, and sees what it did when it is told.
    add(&web, "by-the-web").await;
    assert!(web.record().tenant_named("by-the-web").is_some());
    let refusal = web.propose(tenant("before")).await;
    assert!(matches!(refusal, Err(ProposeError::Refused(Refusal::TenantExists(_)))), "{refusal:?}");
    assert!(matches!(news.next().await, Some(News::Changed { .. })));
    let standing = web.standing();
    assert_eq!((standing.part, standing.leader), (Part::Follower, Some(cluster.leader().await)));
    assert_eq!(standing.voters.len(), 3, "it knows who votes");
    // Whoever leads dies: it goes on with another.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    add(&web, "two-of-three").await;
    // All die: it serves what it has, and answers in words and in time. It can't always know that the box which it asked
    // was dead by then: unknown is as true.
    for who in cluster.ids() {
        cluster.kill(who).await;
    }
    let start = Instant::now();
    let refusal = web.propose(tenant("nobody")).await;
    assert!(matches!(refusal, Err(ProposeError::NoQuorum | ProposeError::Unknown)), "{refusal:?}");
    assert!(start.elapsed() < PROPOSE_TIME_MAX + Duration::from_secs(1), "{:?}", start.elapsed());
    let before = web.record();
    web.crash();
    let web = follow(&cluster, dir.path());
    assert_eq!(*web.record(), *before, "a restart without any persistence box serves the last record");
    assert!(web.standing().leader.is_none());
    for who in cluster.ids() {
        cluster.start(who).await;
    }
    add(&web, "back").await;
    web.close();
    assert!(cluster.settled().await.tenant_named("back").is_some());
}

#[tokio::test]
async fn a_follower_that_was_away_for_long_fetches_a_snapshot() {
    let cluster = Cluster::of(1, 21).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let web = follow(&cluster, dir.path());
    cluster.keeper(1).propose(tenant("before")).await.expect("it is alone");
    sees(&web, "before").await;
    web.close();
    many(&cluster.keeper(1), COMMANDS_PER_SNAPSHOT + 300).await;
    let web = follow(&cluster, dir.path());
    let record = cluster.keeper(1).record();
    until(|| (*web.record() == *record).then_some(())).await;
    // From a snapshot or the log, its own log is bounded, too.
    web.close();
    let web = follow(&cluster, dir.path());
    assert_eq!(*web.record(), *record);
    web.close();
}

#[tokio::test]
async fn a_follower_of_a_box_that_is_cut_off_asks_another() {
    let cluster = Cluster::of(3, 22).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let web = follow(&cluster, dir.path());
    for lonely in cluster.ids() {
        let name = format!("without-{}", lonely.0[0]);
        let others: Vec<BoxId> = cluster.ids().into_iter().filter(|other| *other != lonely).collect();
        // It still answers the web box.
        cluster.net.cut_both_ways(&[lonely], &others);
        cluster.leader_among(&others).await;
        cluster.net.keeper(others[0]).expect("it runs").propose(tenant(&name)).await.expect("two of three");
        sees(&web, &name).await;
        cluster.net.heal();
    }
    web.close();
}

#[tokio::test]
async fn a_follower_answers_nobody_and_votes_for_nobody() {
    let cluster = Cluster::of(1, 23).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let web = follow(&cluster, dir.path());
    let call = wire::write(&wire::Call::Follow { after: None }).expect("JSON");
    let reply: wire::Reply = wire::read(&web.answer(id(1), call).await).expect("an answer");
    assert!(matches!(reply, wire::Reply::Refused(_)), "{reply:?}");
    web.close();
    let error = Keeper::follow(dir.path(), id(WEB), Arc::new(Link { me: id(WEB), net: Arc::clone(&cluster.net) }), &[]);
    error.expect("it may be opened again").close();
}
