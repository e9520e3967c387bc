//! The cloud as it is, as a `cloud.toml` that is already reached.
//!
//! Boxes are named, as that is what is known of them; whoever wants to count them instead changes the file. Releases, data
//! and secrets aren't in it: a cloud that is made anew from it is empty, until its tenants push.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use base::{Name, Roles};

use super::file::{Seed, quoted};
use super::model::{Claim, Cloud, Renter};

/// Names of boxes that stand in one line.
const NAMES_A_LINE: usize = 6;

/// The text of the file. `seeds` are where boxes of other segments were knocked at.
pub(crate) fn export(cloud: &Cloud, seeds: &[SocketAddr]) -> String {
    let mut text = format!("cloud = \"{}\"\ndomain = {}\n", cloud.name, quoted(&cloud.domain));
    if !seeds.is_empty() {
        let seeds: Vec<String> = seeds.iter().map(|address| quoted(&Seed(*address).to_string())).collect();
        line(&mut text, format_args!("seeds = [{}]", seeds.join(", ")));
    }
    let mut groups: BTreeMap<&Roles, Vec<&Name>> = BTreeMap::new();
    let mut places: BTreeMap<&BTreeMap<String, String>, Vec<&Name>> = BTreeMap::new();
    for member in cloud.boxes.values().filter(|member| !member.leaving) {
        groups.entry(&member.roles).or_default().push(&member.name);
        if !member.labels.is_empty() {
            places.entry(&member.labels).or_default().push(&member.name);
        }
    }
    for (roles, mut names) in groups {
        names.sort();
        line(&mut text, format_args!("\n[[boxes]]\nroles = \"{roles}\"\nnames = {}", list(&names)));
    }
    for (labels, mut names) in places {
        names.sort();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key} = {}", quoted(value))).collect();
        let (labels, names) = (labels.join(", "), list(&names));
        line(&mut text, format_args!("\n[[place]]\nlabels = {{ {labels} }}\nboxes = {names}"));
    }
    for (name, renter) in &cloud.tenants {
        tenant(&mut text, cloud, name, renter);
    }
    text
}

fn tenant(text: &mut String, cloud: &Cloud, name: &Name, renter: &Renter) {
    line(text, format_args!("\n[tenant.{name}]"));
    if let Some(limit) = &renter.limit {
        let burst = limit.burst.map_or_else(String::new, |burst| format!(", burst = {burst}"));
        line(text, format_args!("limit = {{ rate = \"{}\"{burst} }}", limit.rate));
    }
    let own = |claim: &&Claim| claim.tenant == *name;
    let mut domains = cloud.domains.iter().filter(|(_, claim)| own(claim)).peekable();
    if domains.peek().is_some() {
        line(text, format_args!("\n[tenant.{name}.domains]"));
    }
    for (domain, claim) in domains {
        line(text, format_args!("\"{domain}\" = \"{}\"", claim.app));
    }
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{what}");
}

/// Names in brackets, over several lines where there are many.
fn list(names: &[&Name]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    if quoted.len() <= NAMES_A_LINE {
        return format!("[{}]", quoted.join(", "));
    }
    let lines: Vec<String> = quoted.chunks(NAMES_A_LINE).map(|some| format!("    {},\n", some.join(", "))).collect();
    format!("[\n{}]", lines.concat())
}
