//! A plan as people read it, a line for each thing, and as scripts do.
//!
//! `+` comes to be, `~` changes, `…` is waited for, `!` differs and stays so. What is waited for and what differs says
//! what to do about it.

use base::Name;
use schemars::JsonSchema;
use serde::Serialize;
use state::Ceiling;

use super::super::out::Tone;
use super::plan::{Difference, Labels, Plan, Step, Wait};

/// A plan for scripts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlanView<'a> {
    cloud: &'a Name,
    /// Is the cloud as the file says, but for domains whose app isn't there yet, and for differences?
    reached: bool,
    steps: Vec<Told<'a, Step>>,
    waits: Vec<Told<'a, Wait>>,
    differences: Vec<Told<'a, Difference>>,
}

/// One thing of it, and the sentence that people read.
#[derive(Debug, Serialize, JsonSchema)]
struct Told<'a, T> {
    #[serde(flatten)]
    it: &'a T,
    told: String,
}

impl<'a> PlanView<'a> {
    pub(crate) fn of(plan: &'a Plan) -> Self {
        Self {
            cloud: &plan.cloud,
            reached: plan.is_reached(),
            steps: plan.steps.iter().map(|it| Told { it, told: step(it, &plan.cloud) }).collect(),
            waits: plan.waits.iter().map(|it| Told { it, told: wait(it) }).collect(),
            differences: plan.differences.iter().map(|it| Told { it, told: difference(it) }).collect(),
        }
    }
}

/// A plan for people, each line with how it is meant.
pub(crate) fn lines(plan: &Plan) -> Vec<(Tone, String)> {
    let mut lines = Vec::new();
    for it in &plan.steps {
        let (tone, sign) = match it {
            Step::Rerole { .. } | Step::TenantLimit { from: Some(_), .. } => (Tone::Odd, "~"),
            _ => (Tone::Good, "+"),
        };
        lines.push((tone, format!("{sign} {}", step(it, &plan.cloud))));
    }
    for it in &plan.waits {
        lines.push((Tone::Plain, format!("… {}", wait(it))));
        if let Wait::Boxes { unfit, more, .. } = it {
            lines.extend(unfit.iter().map(|unfit| (Tone::Quiet, format!("    {} {}", unfit.name, unfit.why))));
            if *more > 0 {
                lines.push((Tone::Quiet, format!("    and {} don't fit either", boxes(*more, "more"))));
            }
        }
    }
    lines.extend(plan.differences.iter().map(|it| (Tone::Odd, format!("! {}", difference(it)))));
    lines.push((Tone::Strong, summary(plan)));
    lines
}

/// All of it in a line.
fn summary(plan: &Plan) -> String {
    let count = |number: usize, one: &str, several: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {several}")),
    };
    let all = [
        count(plan.steps.len(), "thing to do", "things to do"),
        count(plan.waits.len(), "is waited for", "are waited for"),
        count(plan.differences.len(), "differs and stays so", "differ and stay so"),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() {
        format!("{} is as the file says", plan.cloud)
    } else {
        format!("{}: {}", plan.cloud, all.join(", "))
    }
}

/// One step as people read it, also while it is made.
pub(crate) fn step(it: &Step, cloud: &Name) -> String {
    match it {
        Step::Found { name, roles, labels, domain, tenant, .. } => {
            format!("{name} founds cloud {cloud} at {domain} as {roles}{}, with tenant {tenant}", stands(labels))
        }
        Step::Join { name, roles, labels, .. } => format!("{name} joins as {roles}{}", stands(labels)),
        Step::Rerole { name, from, to, .. } => format!("{name} becomes {to} and was {from}: it is wiped first"),
        Step::TenantCreate { tenant } => format!("tenant {tenant}"),
        Step::TenantLimit { tenant, from: None, limit } => {
            format!("all apps of {tenant} together take {}", ceiling(limit))
        }
        Step::TenantLimit { tenant, from: Some(from), limit } => {
            format!("all apps of {tenant} together take {}, up to now {}", ceiling(limit), ceiling(from))
        }
        Step::DomainAdd { tenant, app, domain } => format!("{domain} is answered by {app} of {tenant}"),
    }
}

pub(crate) fn wait(it: &Wait) -> String {
    match it {
        Wait::Boxes { entry, roles, asks, lacking, wanted, .. } => {
            let asks = if asks.is_empty() { String::new() } else { format!(" with {asks}") };
            let verb = if *lacking == 1 { "is" } else { "are" };
            format!("boxes[{entry}]: {} {verb} lacking of {wanted} for {roles}{asks}", boxes(*lacking, "blank"))
        }
        Wait::Named { entry, roles, name, why } => format!("boxes[{entry}]: {name}, which is to be {roles}, {why}"),
        Wait::Words { name, roles, .. } => format!(
            "{name} is to be {roles}, and its proof words must be compared: firm firm {roles} {name}, or \
             --words {name}=\"word word word word\""
        ),
        Wait::Coming { name, roles, why, .. } => format!("{name}, which is to be {roles}, {why}"),
        Wait::Founder { ready } => {
            let verb = if ready.len() == 1 { "is ready and waits" } else { "are ready and wait" };
            format!("{} {verb} for the first box with persistence, which founds the cloud", listed(ready))
        }
        Wait::App { tenant, app, domain } => format!("{domain} waits for app {app}, which {tenant} hasn't pushed yet"),
    }
}

fn difference(it: &Difference) -> String {
    match it {
        Difference::Unwanted { name, roles, .. } => format!(
            "{name} is {roles} of the cloud, and the file doesn't want it: write it there, or take it out: firm reset {name}"
        ),
        Difference::Roles { name, roles, wanted, why: None, .. } => {
            format!("{name} is {roles} and is to be {wanted}: it is wiped and changed with --reroles")
        }
        Difference::Roles { name, roles, wanted, why: Some(why), .. } => {
            format!("{name} is {roles} and is to be {wanted}, but {why}")
        }
        Difference::Labels { name, labels, wanted, .. } => format!(
            "{name} has{} and is to have{}: labels are given when a box joins",
            if labels.is_empty() { " no labels".to_owned() } else { stands(labels) },
            stands(wanted)
        ),
        Difference::Astray { name, roles, why, .. } => {
            format!("{name} is {roles} in the record, but {why}: take it out of the cloud, or bring it back")
        }
        Difference::Domain { domain, wanted } => {
            format!("the cloud's domain is {domain}, and not {wanted}: it was chosen when the cloud was founded")
        }
        Difference::Tenant { tenant } => format!("there is a tenant {tenant} that the file doesn't name"),
        Difference::Limit { tenant, limit } => format!(
            "all apps of {tenant} together take {}, and the file has no limit: firm tenant limit {tenant} --none takes it away",
            ceiling(limit)
        ),
        Difference::Claimed { domain, tenant, app, by_tenant, by_app } => format!(
            "{domain} is to be answered by {app} of {tenant}, and belongs to {by_app} of {by_tenant}: it has to be removed there first"
        ),
    }
}

fn stands(labels: &Labels) -> String {
    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) }
}

fn ceiling(limit: &Ceiling) -> String {
    match limit.burst {
        Some(burst) => format!("{}, {burst} at once", limit.rate),
        None => limit.rate.to_string(),
    }
}

fn boxes(number: usize, which: &str) -> String {
    format!("{number} {which} box{}", if number == 1 { "" } else { "es" })
}

/// Names as a sentence has them.
fn listed(names: &[Name]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(Name::as_str).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}
