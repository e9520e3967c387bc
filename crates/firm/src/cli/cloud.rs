//! The cloud of a context, where it is made of boxes: what it says of them, and whom else to ask.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::{BoxView, CloudView, RecordPart};
use base::limits::{
    BOX_DRAIN_TIME_MAX, BOX_LOOK_TIME_MAX, BOX_SILENCE, CLIENT_ANSWER_TIME_MAX, CONTEXT_ADDRESSES_MAX, DRAIN_WAIT_MAX,
    SIGHTING_ADDRESSES_MAX,
};
use base::{BoxId, Name, Role};
use firming::Door;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::segment::{Where, is_called};
use super::session::Session;
use super::{Cx, contexts, when};

/// The boxes of the session's cloud. None where it isn't made of boxes: it is `firm up` on one machine.
pub(super) async fn view(session: &Session) -> Outcome<Option<CloudView>> {
    match session.get::<CloudView>("/v1/boxes").await {
        Ok(view) => {
            keep_addresses(session, &view);
            Ok(Some(view))
        }
        Err(failure) if failure.code() == Some("not_now") => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Keeps in the context where else its cloud answers. What can't be kept is found again.
fn keep_addresses(session: &Session, view: &CloudView) {
    let (Some(name), Ok(folder)) = (&session.chosen, contexts::folder()) else { return };
    let context = session.client.context();
    let port = port_of(&context.address);
    let mut also: Vec<String> = view
        .boxes
        .iter()
        .filter(|it| it.joined.is_some() && !it.leaving)
        .filter_map(|it| it.addresses.first())
        .map(|address| SocketAddr::new(address.ip(), port).to_string())
        .filter(|address| *address != context.address)
        .collect();
    also.truncate(CONTEXT_ADDRESSES_MAX);
    if also == context.also {
        return;
    }
    let _ = contexts::change(&folder, |known| {
        if let Some(context) = known.contexts.get_mut(name) {
            context.also = also;
        }
    });
}

fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
}

/// A session at another box of the cloud than this one.
pub(super) async fn beside(session: &Session, view: &CloudView, id: BoxId) -> Outcome<Session> {
    let port = port_of(&session.client.context().address);
    let mut failed = Failure::new(Exit::Unreachable, "the cloud has no other box that could be asked");
    let mut others: Vec<&BoxView> = view.boxes.iter().filter(|it| it.id != id && it.joined.is_some()).collect();
    others.sort_by_key(|it| (is_silent(it), !it.roles.has(Role::Persistence)));
    for address in others.into_iter().filter_map(|it| it.addresses.first()) {
        match session.at(SocketAddr::new(address.ip(), port).to_string()).await {
            Ok(session) => return Ok(session),
            Err(failure) => failed = failure,
        }
    }
    Err(failed)
}

/// Where to look for boxes, with what the cloud knows of where they are: its own, and the blank ones that it hears.
pub(super) fn place_with(place: &Where, view: Option<&CloudView>, wanted: &[&str]) -> Where {
    let mut place = place.clone();
    let Some(view) = view else { return place };
    let is_wanted = |id: BoxId| wanted.is_empty() || wanted.iter().any(|wanted| is_called(id, wanted));
    let own = view.boxes.iter().filter(|it| is_wanted(it.id)).filter_map(|it| it.addresses.first());
    let own = own.copied().map(Door::address_beside);
    let heard = view.nearby.iter().filter(|it| is_wanted(it.id)).filter_map(|it| it.addresses.first().copied());
    for address in own.chain(heard) {
        if !place.at.contains(&address) {
            place.at.push(address);
        }
    }
    place
}

/// What the context's cloud says of its boxes. None where there is no such cloud, or it doesn't answer soon.
pub(super) async fn soon(cx: &Cx) -> Option<CloudView> {
    let asked = async { view(&cx.session().await.ok()?).await.ok()? };
    tokio::time::timeout(BOX_LOOK_TIME_MAX, asked).await.ok()?
}

/// Has its cloud not heard of the box lately?
pub(super) fn is_silent(it: &BoxView) -> bool {
    let ago = |heard: u64| Duration::from_millis(heard);
    // One that has just come is still on its way to its first word.
    let is_young = it.joined.is_some_and(|joined| when::now().since(joined) < BOX_SILENCE * 2);
    let is_silent = it.vitals.as_ref().is_none_or(|vitals| ago(vitals.heard_ms_ago) > BOX_SILENCE);
    it.joined.is_some() && is_silent && !is_young
}

/// Where a box that joins knocks.
pub(super) fn doors(view: &CloudView) -> Vec<Door> {
    let mut keepers: Vec<&BoxView> =
        view.boxes.iter().filter(|it| it.roles.has(Role::Persistence) && it.joined.is_some() && !it.leaving).collect();
    // Those that live first, and of them those whose record is the newest.
    keepers.sort_by_key(|it| (is_silent(it), it.record == RecordPart::StandsBy));
    let links = |it: &BoxView| it.addresses.iter().copied().take(SIGHTING_ADDRESSES_MAX).collect::<Vec<_>>();
    let door = |it: &BoxView| Door::beside(it.id, &links(it));
    keepers.into_iter().take(base::limits::DOORS_MAX).map(door).collect()
}

/// The cloud does without the box from now on: it goes in order, or is out for good.
pub(super) async fn remove(
    cx: &Cx,
    session: &Session,
    view: &CloudView,
    it: &BoxView,
    evict: bool,
    lose_data: bool,
) -> Outcome {
    let path = format!("/v1/boxes/{}?evict={evict}&lose_data={lose_data}", it.id);
    let time = CLIENT_ANSWER_TIME_MAX.max(BOX_DRAIN_TIME_MAX + Duration::from_secs(10));
    let began = Instant::now();
    let mut asked = session.clone();
    let removed = loop {
        match asked.delete_within::<api::Done>(&path, time).await {
            Err(failure) if failure.code() == Some("ask_another") => asked = beside(session, view, it.id).await?,
            // It goes on by itself meanwhile: data is on its way.
            Err(failure) if failure.code() == Some("not_drained") && began.elapsed() < DRAIN_WAIT_MAX => {
                cx.out.note(&format!("{} …", failure.message().unwrap_or_default()));
            }
            removed => break removed,
        }
    };
    removed.map(|_| ()).map_err(|failure| match failure.code() {
        Some("needed") if !lose_data => failure.help(
            "a box that is lost takes its databases with it: --lose-data, if that is what you want; one that works sends them \
             away first, with firm reset",
        ),
        _ => failure,
    })
}

/// The box of the cloud that is called so.
pub(super) fn called<'a>(view: &'a CloudView, called: &str) -> Option<&'a BoxView> {
    view.boxes
        .iter()
        .find(|it| it.name.as_str() == called || it.id.long_name().as_str() == called || it.id.to_string() == called)
}

/// How a box stands in its cloud, in a word or two.
pub(super) fn state(it: &BoxView) -> &'static str {
    match it {
        it if it.joined.is_none() => "expected",
        it if it.leaving => "leaving",
        it if is_silent(it) => "silent",
        _ => "firm",
    }
}

/// What isn't as it should be with the boxes, and what to do about it.
pub(super) fn concerns(view: &CloudView) -> Vec<String> {
    let mut concerns = Vec::new();
    if view.leader.is_none() {
        concerns.push(
            "nobody leads the record, so nothing can be changed: more than half of those that vote must be up"
                .to_owned(),
        );
    }
    let name = |it: &BoxView| -> Name { it.name.clone() };
    for it in &view.boxes {
        match state(it) {
            "expected" => concerns.push(format!(
                "{} was let in as {} and hasn't come: look at its console, or tell it again: firm firm {} {}",
                name(it),
                it.roles,
                it.roles,
                name(it)
            )),
            "leaving" => concerns.push(format!("{} is about to go: finish it with firm reset {}", name(it), name(it))),
            // Where nobody leads, nobody listens.
            "silent" if view.leader.is_some() => {
                let since = it.vitals.as_ref().map_or_else(
                    || "wasn't heard of since its cloud's leader began".to_owned(),
                    |vitals| format!("is silent for {} s", vitals.heard_ms_ago / 1000),
                );
                concerns.push(format!(
                    "{} {since}: look at its console and cable; if it is lost for good: firm evict {}",
                    name(it),
                    name(it)
                ));
            }
            _ => {}
        }
        for concern in it.vitals.iter().flat_map(|vitals| &vitals.concerns) {
            concerns.push(format!("{}: {concern}", name(it)));
        }
    }
    concerns
}
