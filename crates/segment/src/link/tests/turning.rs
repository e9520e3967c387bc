//! Certificates and roots that turn, while calls go on.

use super::*;

/// Calls without a pause until it is told to stop, and says how many were answered.
async fn calls_on(caller: &Box1, answers: &Box1, is_over: &AtomicBool) -> u32 {
    let mut count = 0;
    while !is_over.load(Ordering::SeqCst) {
        for class in [Class::Control, Class::Data] {
            caller.call(answers, class, b"on and on").await.expect("no call is lost");
        }
        count += 1;
        tokio::task::yield_now().await;
    }
    count
}

/// Are the links of a box made with its newest certificate, and the old ones gone?
fn has_turned(caller: &Box1, answers: &Box1, shown: u64) -> bool {
    let states = caller.links.states();
    states.iter().all(|state| state.address.is_some() && state.shown == shown)
        && answers.links.accepted() == states.len()
}

#[tokio::test]
async fn certificates_are_renewed_without_a_call_that_is_lost() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    let is_over = AtomicBool::new(false);
    let renew = async {
        until("both links stand", || answers.links.accepted() == 2).await;
        for shown in 1..=5 {
            answers.links.renew(&cloud.issue(answers.id())).expect("believed");
            caller.links.renew(&cloud.issue(caller.id())).expect("believed");
            until("all is turned", || has_turned(&caller, &answers, shown)).await;
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(calls_on(&caller, &answers, &is_over), renew);
    assert!(count > 5, "only {count} rounds of calls");
}

#[tokio::test]
async fn a_call_in_flight_outlives_its_connection_s_certificate() {
    let cloud = Cloud::new();
    let open = Arc::new(Notify::new());
    let (gate, begun) = (open.clone(), Arc::new(Notify::new()));
    let begins = begun.clone();
    let (caller, answers) = cloud
        .pair(move |_, _, body| {
            let (gate, begins) = (gate.clone(), begins.clone());
            async move {
                if body == "slow" {
                    begins.notify_one();
                    gate.notified().await;
                }
                Ok(body)
            }
        })
        .await;
    let slow = caller.call(&answers, Class::Data, b"slow");
    let turn = async {
        begun.notified().await;
        caller.links.renew(&cloud.issue(caller.id())).expect("believed");
        until("a new one stands beside the old", || answers.links.accepted() == 2).await;
        until("the new one serves", || caller.links.states()[0].shown == 1).await;
        assert_eq!(caller.call(&answers, Class::Data, b"quick").await.expect("answered"), "quick");
        assert_eq!(answers.links.accepted(), 2);
        open.notify_one();
    };
    let (slow, ()) = tokio::join!(slow, turn);
    assert_eq!(slow.expect("answered on the old one"), "slow");
    until("the old one ends", || answers.links.accepted() == 1).await;
}

#[tokio::test]
async fn a_cloud_rolls_over_to_another_root_without_a_call_that_is_lost() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    let successor = Authority::found(cloud.authority.cloud(), NOW).expect("made");
    let is_over = AtomicBool::new(false);
    let roll = async {
        until("both links stand", || answers.links.accepted() == 2).await;
        // First every box believes both.
        let mut both = cloud.trust.clone();
        both.add(successor.root().clone()).expect("a second root");
        for a_box in [&caller, &answers] {
            a_box.links.set_trust(both.clone()).expect("of this cloud");
        }
        // Then issuing turns, one box after the other.
        for a_box in [&caller, &answers] {
            let certificate = successor.issue(a_box.id(), &Roles::solo(), NOW).expect("issued");
            a_box.links.renew(&certificate).expect("believed");
        }
        until("all is turned", || has_turned(&caller, &answers, 1)).await;
        // The caller may have dialled before the other had turned: half a life later it dials anew.
        caller.links.renew(&successor.issue(caller.id(), &Roles::solo(), NOW).expect("issued")).expect("believed");
        until("all is turned again", || has_turned(&caller, &answers, 2)).await;
        // Then the old root goes.
        let mut alone = both;
        alone.forget(cloud.authority.root().fingerprint()).expect("the old one goes");
        for a_box in [&caller, &answers] {
            a_box.links.set_trust(alone.clone()).expect("of this cloud");
        }
        for _ in 0..100 {
            caller.call(&answers, Class::Data, b"").await.expect("answered");
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(calls_on(&caller, &answers, &is_over), roll);
    assert!(count > 0);
    assert_eq!(answers.links.accepted(), 2);

    // Who slept through it is not believed any more.
    let old = cloud.authority.issue(caller.id(), &Roles::solo(), NOW).expect("issued");
    assert!(matches!(caller.links.renew(&old), Err(LinksError::Certificate(_))));
}

#[tokio::test]
async fn who_is_believed_by_a_dropped_root_alone_is_cut_off() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    let successor = Authority::found(cloud.authority.cloud(), NOW).expect("made");
    answers.links.set_trust(Trust::new(successor.root().clone())).expect("of this cloud");
    until("its link ends", || answers.links.accepted() == 0).await;
    let failed = caller.call(&answers, Class::Data, b"").await;
    assert!(matches!(failed, Err(CallError::Unreachable { .. })), "{failed:?}");
    let foreign = Cloud::new();
    assert!(matches!(answers.links.set_trust(foreign.trust), Err(LinksError::Cloud { .. })));
}

#[tokio::test]
async fn a_box_whose_certificate_runs_out_is_cut_off() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    answers.clock.set(NOW.plus(CERTIFICATE_LIFE * 2));
    answers.links.judge_all();
    until("its link ends", || answers.links.accepted() == 0).await;
}

#[tokio::test]
async fn a_link_whose_other_side_ran_out_serves_until_a_new_one_stands() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    // The other side has a new one, which this connection is too old to have seen.
    let later = NOW.plus(CERTIFICATE_LIFE * 2);
    let issue = |id| cloud.authority.issue(id, &Roles::solo(), later).expect("issued");
    for a_box in [&caller, &answers] {
        a_box.clock.set(later);
        a_box.links.core.shown.show(&issue(a_box.id()));
    }
    tokio::join!(
        async {
            for _ in 0..50 {
                caller.call(&answers, Class::Data, b"").await.expect("answered");
            }
        },
        async {
            caller.links.judge_all();
            until("another one stands", || caller.links.states()[0].connections == 2).await;
        },
    );
    until("the old one ends", || answers.links.accepted() == 1).await;
    answers.links.judge_all();
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    assert_eq!(caller.links.states()[0].connections, 2);
}

#[tokio::test]
async fn a_link_whose_other_side_ran_out_and_has_nothing_newer_ends() {
    let ms = Duration::from_millis;
    let cloud = Cloud::with(Pace { judge_every: ms(50), ping_after: ms(20), ..quick() });
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    caller.clock.set(NOW.plus(CERTIFICATE_LIFE * 2));
    caller.links.judge_all();
    until("it ends", || answers.links.accepted() == 0).await;
    let failed = caller.call(&answers, Class::Data, b"").await;
    assert!(matches!(failed, Err(CallError::Unreachable { .. })), "{failed:?}");
}
