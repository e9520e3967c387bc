//! Boxes join a cloud: the cloud lets each in, then each is told where to knock.

use std::collections::BTreeMap;

use api::{BoxAdmit, BoxView, CloudView};
use base::Roles;
use firming::{Assignment, Way, What};
use http::Method;
use state::Signed;

use super::failure::{Failure, Outcome};
use super::firming::{give, order};
use super::segment::{Found, Operator};
use super::session::Session;
use super::{Cx, cloud};

/// Is the box one of the cloud's already, by the cloud's word and its own?
pub(super) fn is_member(view: &CloudView, found: &Found) -> bool {
    found.about.cloud == Some(view.cloud) && held(view, found).is_some_and(|it| it.joined.is_some())
}

fn held<'a>(view: &'a CloudView, found: &Found) -> Option<&'a BoxView> {
    view.boxes.iter().find(|it| it.id == found.about.id)
}

/// A box of the cloud that is to be something else is wiped for it, which somebody has to want.
pub(super) fn may_change(cx: &Cx, view: &CloudView, found: &Found, roles: &Roles, yes: bool) -> Outcome {
    let name = found.about.id.name();
    if let Some(other) = found.about.cloud.filter(|cloud| *cloud != view.cloud) {
        let called = found.about.cloud_name.as_ref().map_or_else(|| other.to_string(), ToString::to_string);
        return Err(Failure::usage(format!("{name} belongs to cloud {called}"))
            .help(format!("reset it first: firm reset {name}")));
    }
    match held(view, found) {
        Some(it) if it.joined.is_some() && it.roles != *roles => cx
            .out
            .confirm(&format!("{name} is {} of cloud {}. Wipe it, and make it {roles}?", it.roles, view.name), yes),
        _ => Ok(()),
    }
}

/// Has the cloud let each of them in, and tells each. Boxes that are what they shall be are left alone.
#[expect(clippy::too_many_arguments, reason = "all of it was asked for in one command")]
pub(super) async fn join(
    cx: &Cx,
    operator: &mut Operator,
    session: &Session,
    view: &CloudView,
    found: Vec<Found>,
    roles: &Roles,
    labels: &BTreeMap<String, String>,
    lose_data: bool,
) -> Outcome<Vec<Found>> {
    let mut boxes = Vec::with_capacity(found.len());
    for mut one in found {
        let it = held(view, &one).filter(|it| it.joined.is_some());
        if let Some(it) = it {
            if it.roles == *roles && is_member(view, &one) {
                boxes.push(one);
                continue;
            }
            cx.out.note(&format!("{} leaves as {} …", it.name, it.roles));
            cloud::remove(cx, session, view, it, false, lose_data).await?;
        }
        let asked = match it {
            // It was one of them: what is asked from here on is asked of another.
            Some(it) => cloud::beside(session, view, it.id).await?,
            None => session.clone(),
        };
        tell(operator, &asked, view, &mut one, roles, labels).await?;
        boxes.push(one);
    }
    Ok(boxes)
}

pub(super) async fn tell(
    operator: &mut Operator,
    session: &Session,
    view: &CloudView,
    found: &mut Found,
    roles: &Roles,
    labels: &BTreeMap<String, String>,
) -> Outcome {
    let id = found.about.id;
    let mut operators = view.operators.clone();
    if !operators.contains(&operator.identity.id()) {
        operators.push(operator.identity.id());
    }
    let mut doors = cloud::doors(view);
    doors.retain(|door| door.id != id);
    let warrant = operator.warrant(view.cloud, id, roles);
    let assignment = Assignment {
        cloud: view.cloud,
        name: view.name.clone(),
        roles: roles.clone(),
        way: Way::Join { doors },
        labels: labels.clone(),
        operators,
        warrant: Some(warrant.clone()),
    };
    let order = order(found, What::Firm(Box::new(assignment)))?;
    let admit = BoxAdmit {
        id,
        roles: roles.clone(),
        labels: labels.clone(),
        order: order.id.0.clone(),
        warrant: Some(Signed { by: warrant.by, signature: warrant.signature }),
    };
    let _: BoxView = session.send(Method::POST, "/v1/boxes", &admit).await?;
    give(operator, found, &order).await?;
    operator.claim(id);
    Ok(())
}
