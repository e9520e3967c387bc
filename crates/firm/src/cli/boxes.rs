//! `firm boxes`: who is on this segment, and of the context's cloud elsewhere.

use std::net::{IpAddr, SocketAddr};

use base::limits::KNOCK_PORT;
use base::{BoxId, Bytes, CloudId, Name, Roles};
use firming::Door;
use segment::knock::Hardware;
use serde::Serialize;

use super::failure::Outcome;
use super::out::Tone;
use super::segment::{self as nearby, Found, Operator, Seen};
use super::table::{Table, or_dash};
use super::{Cx, cloud, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm boxes\n  firm boxes --json | jq -r '.boxes[] | select(.state == \"blank\") | .name'\n  firm boxes --at 10.0.2.7 --listen 0s   # a box of another segment\n\nEach box is listed as what it proves to be. The proof words are yours and that box's: the same stand on its console.\nA box that was started with your seal shows `sealed`, and needs no comparing."
)]
pub(super) struct Args {
    /// Don't ask the context's cloud for its boxes
    #[arg(long)]
    no_cloud: bool,
    #[command(flatten)]
    place: nearby::Where,
}

/// What a script reads.
#[derive(Serialize)]
struct Told {
    boxes: Vec<BoxView>,
    /// Those of the context's cloud that answer nowhere: what it says of them.
    elsewhere: Vec<api::BoxView>,
    /// Who said G'day and didn't prove to be a box.
    silent: Vec<SilentView>,
    /// Of whom there were too many to keep.
    overheard: u64,
}

#[derive(Serialize)]
struct BoxView {
    id: BoxId,
    name: Name,
    state: String,
    why: Option<String>,
    roles: Option<Roles>,
    cloud: Option<CloudId>,
    cloud_name: Option<Name>,
    address: String,
    interface: String,
    hardware: Hardware,
    version: String,
    /// Was it started with a seal of this operator's?
    sealed: bool,
    /// Why the seal that it shows says nothing.
    seal_doubt: Option<String>,
    words: String,
    /// Where others have the same key.
    twins: Vec<String>,
}

#[derive(Serialize)]
struct SilentView {
    claims: Option<Name>,
    address: String,
    why: String,
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let mut operator = Operator::open()?;
    let view = if args.no_cloud { None } else { cloud::soon(cx).await };
    let place = cloud::place_with(&args.place, view.as_ref(), &[]);
    let seen = nearby::look(&mut operator, &place, &[]).await?;
    let told = told(&seen, view.as_ref());
    cx.out.answer(&told, |out| {
        let mut table =
            Table::new(&["NAME", "STATE", "ROLES", "CLOUD", "ADDRESS", "CORES", "MEMORY", "DISKS", "PROOF WORDS"]);
        for it in &told.boxes {
            table.row([
                it.name.to_string(),
                it.state.clone(),
                or_dash(it.roles.as_ref()),
                or_dash(it.cloud_name.as_ref()),
                it.address.clone(),
                it.hardware.cores.to_string(),
                size(rounded(it.hardware.memory)),
                disks(&it.hardware.disks),
                if it.sealed { "sealed".to_owned() } else { it.words.clone() },
            ]);
        }
        let name = view.as_ref().map(|view| view.name.clone());
        for it in &told.elsewhere {
            let knock = |link: &SocketAddr| shown(Door::address_beside(*link));
            table.row([
                it.name.to_string(),
                cloud::state(it).to_owned(),
                it.roles.to_string(),
                or_dash(name.as_ref()),
                or_dash(it.addresses.first().map(knock).as_ref()),
                or_dash(None::<&str>),
                or_dash(None::<&str>),
                or_dash(None::<&str>),
                "no answer".to_owned(),
            ]);
        }
        table.show(
            out,
            "No box answers on this segment. Start one: firm box --dir DIR. Of another segment: firm boxes --at ADDRESS",
        )?;
        for it in &told.boxes {
            if let Some(why) = &it.why {
                out.note(&format!("{}: {why}", out.paint(Tone::Strong, it.name.as_str())));
            }
            if let Some(doubt) = &it.seal_doubt {
                out.warn(&format!("{}: {doubt}", it.name));
            }
            if !it.twins.is_empty() {
                out.warn(&format!(
                    "{}: boxes at {} and {} have one key: a disk was copied. On one of them stop the box, remove \
                     box/identity.key, and start it again",
                    it.name,
                    it.address,
                    it.twins.join(", ")
                ));
            }
        }
        for silent in &told.silent {
            out.warn(&match &silent.claims {
                Some(name) => format!("{name} said G'day from {}, but: {}", silent.address, silent.why),
                None => format!("at {}: {}", silent.address, silent.why),
            });
        }
        if told.overheard > 0 {
            out.warn(&format!("{} more said G'day than can be kept: somebody floods this segment", told.overheard));
        }
        Ok(())
    })
}

fn told(seen: &Seen, of_cloud: Option<&api::CloudView>) -> Told {
    let names = seen.names();
    let now = when::now();
    let view = |found: &Found| {
        let about = found.about.clone();
        let seal = found.visit.seal(now);
        BoxView {
            id: about.id,
            name: names.get(&about.id).cloned().unwrap_or_else(|| about.id.long_name()),
            state: about.standing,
            why: about.why,
            roles: about.roles,
            cloud: about.cloud,
            cloud_name: about.cloud_name,
            address: shown(found.address),
            interface: found.interface.clone(),
            hardware: about.hardware,
            version: about.version,
            sealed: seal == Some(Ok(())),
            seal_doubt: seal.and_then(Result::err).map(|doubt| doubt.to_string()),
            words: found.visit.introduction().words.to_string(),
            twins: found.twins.iter().copied().map(shown).collect(),
        }
    };
    let silent = seen.silent.iter().map(|silent| SilentView {
        claims: silent.claimed.map(|id| id.name()),
        address: silent.address.to_string(),
        why: silent.why.clone(),
    });
    let is_here = |it: &api::BoxView| seen.boxes.iter().any(|found| found.about.id == it.id);
    let elsewhere = of_cloud.map(|of_cloud| of_cloud.boxes.iter().filter(|it| !is_here(it)).cloned().collect());
    let elsewhere = elsewhere.unwrap_or_default();
    Told {
        elsewhere,
        boxes: seen.boxes.iter().map(view).collect(),
        silent: silent.collect(),
        overheard: seen.overheard,
    }
}

/// Without the port, where that is what it always is.
fn shown(address: SocketAddr) -> String {
    match (address.port(), address.ip()) {
        (KNOCK_PORT, IpAddr::V6(ip)) if ip.is_unicast_link_local() => address.to_string(),
        (KNOCK_PORT, ip) => ip.to_string(),
        _ => address.to_string(),
    }
}

/// Whole GiB from one upwards, whole MiB below: what a person buys.
fn rounded(bytes: u64) -> u64 {
    let unit: u64 = if bytes >= 1 << 30 { 1 << 30 } else { 1 << 20 };
    (bytes.saturating_add(unit / 2) / unit).saturating_mul(unit)
}

/// Whole TiB where they are such.
fn size(bytes: u64) -> String {
    const TIB: u64 = 1 << 40;
    if bytes >= TIB && bytes.is_multiple_of(TIB) { format!("{}TiB", bytes / TIB) } else { Bytes(bytes).to_string() }
}

/// Disks of one size together, as in `2× 4TiB`.
fn disks(disks: &[u64]) -> String {
    let mut groups: Vec<(u64, usize)> = Vec::new();
    for disk in disks.iter().map(|disk| rounded(*disk)) {
        match groups.last_mut() {
            Some((size, number)) if *size == disk => *number += 1,
            _ => groups.push((disk, 1)),
        }
    }
    let shown: Vec<_> = groups.iter().map(|(bytes, number)| format!("{number}× {}", size(*bytes))).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_one_size_stand_together() {
        assert_eq!(disks(&[]), "-");
        assert_eq!(disks(&[4 << 40, 4 << 40, 500 << 30]), "2× 4TiB, 1× 500GiB");
        assert_eq!(rounded((4 << 30) - (100 << 20)), 4 << 30);
    }
}
