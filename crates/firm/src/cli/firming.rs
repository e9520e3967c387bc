//! `firm firm` and `firm reset`: a box becomes something, or nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base::limits::{BOX_LABELS_MAX, FIRM_WAIT_DEFAULT, KNOCK_ANSWER_TIME_MAX};
use base::{CloudId, Name, Roles, Span};
use firming::{Assignment, Order, OrderId, Way, What};
use segment::ProofWords;
use segment::authority::draw_cloud;
use segment::knock::VisitError;
use segment::seal::SealDoubt;
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::segment::{self as nearby, Found, LOOK_AGAIN, Operator};
use super::{Cx, contexts, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm firm solo amber-otter\n  firm firm solo amber-otter --words \"river candy fabric orbit\"   # as its console shows them\n  firm firm solo amber-otter --cloud hut --domain hut.example --label rack=7\n\nA box is wiped before it becomes anything. It is firmed only when its proof words were compared, by you or with --words,\nor when it was started with your seal (`firm operator seal`). --yes skips no comparing."
)]
pub(super) struct FirmArgs {
    /// persistence, web, auth, several with commas, or solo, which is all three
    #[arg(value_name = "ROLES")]
    roles: Roles,
    /// The box's name, as `firm boxes` shows it
    #[arg(value_name = "BOX")]
    name: String,
    /// The four proof words that the box's console shows
    #[arg(long, value_name = "WORDS")]
    words: Option<ProofWords>,
    /// What the new cloud, and the context for it, is called
    #[arg(long, value_name = "NAME", default_value = "cloud")]
    cloud: Name,
    /// Apps answer at APP.TENANT.DOMAIN, the API at api.DOMAIN
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// The cloud's first tenant
    #[arg(long, default_value = "main")]
    first_tenant: Name,
    /// Where the box stands, as in rack=7; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// How long to wait until the box is firm
    #[arg(long, default_value_t = Span(FIRM_WAIT_DEFAULT))]
    timeout: Span,
    #[command(flatten)]
    place: nearby::Where,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm reset amber-otter\n  firm reset amber-otter --yes\n\nThe box deletes everything that its cloud gave it, and is blank. It works from every state."
)]
pub(super) struct ResetArgs {
    /// The box's name, as `firm boxes` shows it
    #[arg(value_name = "BOX")]
    name: String,
    /// The four proof words that the box's console shows; needed only for a box that you didn't firm
    #[arg(long, value_name = "WORDS")]
    words: Option<ProofWords>,
    /// Don't ask whether it may be wiped
    #[arg(long, short)]
    yes: bool,
    /// How long to wait until the box is blank
    #[arg(long, default_value_t = Span(FIRM_WAIT_DEFAULT))]
    timeout: Span,
    #[command(flatten)]
    place: nearby::Where,
}

#[derive(Serialize)]
struct Told {
    name: Name,
    state: String,
    roles: Option<Roles>,
    cloud: Option<CloudId>,
    context: Option<Name>,
    seconds: f64,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label has a key and a value, as in rack=7")?;
    let key: Name = key.parse().map_err(|error: base::NameError| error.to_string())?;
    let value: Name = value.parse().map_err(|error: base::NameError| error.to_string())?;
    Ok((key.to_string(), value.to_string()))
}

pub(super) async fn firm(cx: &Cx, args: FirmArgs) -> Outcome {
    let domain = crate::up::cloud_domain(&args.domain)?;
    let labels: BTreeMap<_, _> = args.label.iter().cloned().collect();
    if labels.len() > BOX_LABELS_MAX {
        return Err(Failure::usage(format!("a box has {BOX_LABELS_MAX} labels at the most")));
    }
    if args.roles != Roles::solo() {
        return Err(Failure::usage(format!("a cloud's first box must be all of it, and `{}` is a part", args.roles))
            .help(format!("firm firm solo {}; clouds of several boxes are not there yet", args.name)));
    }
    let mut operator = Operator::open()?;
    let mut found = nearby::look(&mut operator, &args.place, Some(&args.name)).await?.take(&args.name)?;
    free(&args.cloud, &found)?;
    let began = Instant::now();
    // It was told before, and whoever told it was called away: what is left is to get at it.
    let is_there = found.about.standing == "firm" && found.about.cloud_name.as_ref() == Some(&args.cloud);
    if is_there && operator.knows(found.about.id) {
        return finish(cx, &mut operator, found, &args, began).await;
    }
    compare(cx, &operator, &found, args.words)?;
    let cloud = draw_cloud().map_err(|error| Failure::of(Exit::Refused, &error))?;
    let assignment = Assignment {
        cloud,
        name: args.cloud.clone(),
        roles: args.roles.clone(),
        way: Way::Found { domain, tenant: args.first_tenant.clone() },
        labels,
        operators: vec![operator.identity.id()],
    };
    let order = order(&found, What::Firm(Box::new(assignment)))?;
    found.visit.order(&order).await.map_err(|error| refused(&found, &error))?;
    operator.claim(found.about.id);
    wait(cx, &operator, &mut found, "firm", args.timeout.0).await?;
    if found.about.cloud != Some(cloud) {
        return Err(Failure::new(Exit::Refused, format!("{} is firm, but of another cloud", args.name)));
    }
    finish(cx, &mut operator, found, &args, began).await
}

/// The box is firm: gets what commands need, and says so.
async fn finish(cx: &Cx, operator: &mut Operator, mut found: Found, args: &FirmArgs, began: Instant) -> Outcome {
    let context = access(operator, &mut found, &args.cloud, args.timeout.0).await?;
    let told = told(&found, began, Some(context.clone()));
    cx.out.answer(&told, |out| {
        out.line(&format!(
            "{} {} is {} of cloud {}, after {:.1} s",
            out.paint(Tone::Good, "✓"),
            told.name,
            args.roles,
            args.cloud,
            told.seconds
        ))?;
        out.line(&format!(
            "Commands go to context {context} from now on. Next:  firm new hello --template static && firm push hello"
        ))
    })
}

pub(super) async fn reset(cx: &Cx, args: ResetArgs) -> Outcome {
    let mut operator = Operator::open()?;
    let mut found = nearby::look(&mut operator, &args.place, Some(&args.name)).await?.take(&args.name)?;
    compare(cx, &operator, &found, args.words)?;
    let what = match (&found.about.roles, &found.about.cloud_name) {
        (Some(roles), Some(cloud)) => {
            format!("Reset {}, {roles} of cloud {cloud}, and delete all its data?", args.name)
        }
        _ => format!("Reset {}?", args.name),
    };
    cx.out.confirm(&what, args.yes)?;
    let cloud = found.about.cloud_name.clone();
    let order = order(&found, What::Reset)?;
    let began = Instant::now();
    found.visit.order(&order).await.map_err(|error| refused(&found, &error))?;
    wait(cx, &operator, &mut found, "blank", args.timeout.0).await?;
    let context = match &cloud {
        Some(cloud) => forget(cloud, &found)?,
        None => None,
    };
    let told = told(&found, began, context);
    cx.out.answer(&told, |out| {
        out.line(&format!("{} {} is blank, after {:.1} s", out.paint(Tone::Good, "✓"), told.name, told.seconds))?;
        match &told.context {
            Some(context) => out.line(&format!("Context {context} is forgotten: its cloud is no more.")),
            None => Ok(()),
        }
    })
}

/// The context that will be written must not take another cloud's place. One at this box's own address was this box's,
/// before it was reset.
fn free(cloud: &Name, found: &Found) -> Outcome {
    let known = contexts::load(&contexts::folder()?)?;
    let ip = |address: &str| address.parse::<SocketAddr>().ok().map(|address| address.ip());
    match known.contexts.get(cloud) {
        Some(context) if ip(&context.address) != Some(found.address.ip()) => {
            Err(Failure::usage(format!("there is a context {cloud} already, for the cloud at {}", context.address))
                .help(
                    "call the new cloud something else: --cloud NAME; or forget the old one: firm context remove NAME",
                ))
        }
        _ => Ok(()),
    }
}

/// The context of a cloud that was one box, and is gone.
fn forget(cloud: &Name, found: &Found) -> Outcome<Option<Name>> {
    let folder = contexts::folder()?;
    let ip = |address: &str| address.parse::<SocketAddr>().ok().map(|address| address.ip());
    let is_its = |context: &api::Context| ip(&context.address) == Some(found.address.ip());
    if !contexts::load(&folder)?.contexts.get(cloud).is_some_and(is_its) {
        return Ok(None);
    }
    contexts::change(&folder, |known| {
        known.contexts.remove(cloud);
        if known.current.as_ref() == Some(cloud) {
            known.current = None;
        }
    })?;
    Ok(Some(cloud.clone()))
}

/// Nothing is ordered before the box is known to be the one that it seems to be: it was known before, its seal says so, or
/// its words were compared.
fn compare(cx: &Cx, operator: &Operator, found: &Found, told: Option<ProofWords>) -> Outcome {
    let words = found.visit.introduction().words;
    let name = found.about.id.name();
    if let Some(told) = told {
        return if told == words {
            Ok(())
        } else {
            Err(Failure::new(Exit::Refused, format!("the words are not those of {name}: they would be `{words}`")).help(
                "nothing was done. Look at its console once more: it may show newer words for you. If it really shows \
                 what you gave, somebody stands between you and the box",
            ))
        };
    }
    if operator.knows(found.about.id) {
        return Ok(());
    }
    match found.visit.seal(when::now()) {
        Some(Ok(())) => return Ok(()),
        Some(Err(doubt @ SealDoubt::Ended(_))) => {
            cx.out.warn(&format!("{name}: {doubt}, so its words must be compared"));
        }
        Some(Err(doubt)) => {
            return Err(Failure::new(Exit::Refused, format!("{name} can't be trusted: {doubt}"))
                .help("it obeys the operator of its seal alone; to use it, start it with your seal or without one"));
        }
        None => {}
    }
    if !cx.out.is_interactive() {
        return Err(uncompared(&name));
    }
    cx.out.note(&format!("The console of {name} shows these words for you:\n\n    {words}\n"));
    cx.out.confirm("Are they the same?", false).map_err(|failure| match failure.exit {
        Exit::Usage => uncompared(&name),
        _ => failure,
    })
}

fn uncompared(name: &Name) -> Failure {
    Failure::usage(format!("the proof words of {name} were compared by nobody"))
        .help("read them on its console, and give them: --words \"word word word word\"")
}

fn order(found: &Found, what: What) -> Outcome<Order> {
    let id = OrderId(data_encoding::HEXLOWER.encode(&random::<16>()?));
    Ok(Order { id, to: found.about.id, what })
}

fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Refused, format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

fn refused(found: &Found, error: &VisitError) -> Failure {
    let exit = if matches!(error, VisitError::Refused(_)) { Exit::Refused } else { Exit::Unknown };
    let failure =
        Failure::new(exit, format!("{} didn't take the order: {}", found.about.id.name(), base::chain(error)));
    match exit {
        Exit::Unknown => failure.help("whether it did shows: firm boxes"),
        _ => failure,
    }
}

/// Waits until the box is what it was told to be, and says what it is meanwhile.
async fn wait(cx: &Cx, operator: &Operator, found: &mut Found, wanted: &str, within: Duration) -> Outcome {
    let began = Instant::now();
    let name = found.about.id.name();
    let mut said = String::new();
    loop {
        let now = match found.again(operator).await {
            Ok(about) if about.standing == wanted && (wanted == "blank" || about.why.is_none()) => return Ok(()),
            // It gave up: it will not become what was wanted.
            Ok(about) if about.standing == "blank" && about.why.is_some() => {
                return Err(Failure::new(
                    Exit::Refused,
                    format!("{name} went back to blank: {}", about.why.unwrap_or_default()),
                ));
            }
            Ok(about) => about.why.map_or(about.standing.clone(), |why| format!("{}: {why}", about.standing)),
            // It begins anew, and its door is closed for a moment.
            Err(error) => format!("it doesn't answer ({error})"),
        };
        if began.elapsed() > within {
            return Err(Failure::new(
                Exit::Unknown,
                format!("{name} is not {wanted} after {} s: {now}", within.as_secs()),
            )
            .help("it goes on by itself; look how far it is: firm boxes"));
        }
        if now != said && cx.out.is_interactive() && began.elapsed() > Duration::from_secs(1) {
            cx.out.note(&format!("{name} is {now} …"));
            said = now;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Gets what this user's commands need, and keeps it as a context.
async fn access(operator: &Operator, found: &mut Found, cloud: &Name, within: Duration) -> Outcome<Name> {
    let began = Instant::now();
    let answer = loop {
        match found.visit.access().await {
            Ok(answer) => break answer,
            Err(error) if began.elapsed() > within.min(KNOCK_ANSWER_TIME_MAX) => {
                return Err(Failure::new(
                    Exit::Refused,
                    format!("the box is firm, but gives no access: {}", base::chain(&error)),
                ));
            }
            Err(_) => {
                tokio::time::sleep(LOOK_AGAIN).await;
                // The line may be what broke.
                let _ = found.again(operator).await;
            }
        }
    };
    let mut context: api::Context = serde_json::from_value(answer).map_err(|error| {
        Failure::new(Exit::Refused, format!("what the box gives can't be read: {error}"))
            .help("are the box and this program of one version?")
    })?;
    // A name that isn't one would be a strange thing to find in a file tomorrow.
    if context.host.parse::<base::Domain>().is_err() || !context.authority.contains("BEGIN CERTIFICATE") {
        return Err(Failure::new(Exit::Refused, "what the box gives is no access to a cloud")
            .help("are the box and this program of one version?"));
    }
    let port = context.address.trim_start_matches(':').parse().unwrap_or(443);
    let mut address = found.address;
    address.set_port(port);
    context.address = address.to_string();
    contexts::register(cloud, context, true)?;
    Ok(cloud.clone())
}

fn told(found: &Found, began: Instant, context: Option<Name>) -> Told {
    Told {
        name: found.about.id.name(),
        state: found.about.standing.clone(),
        roles: found.about.roles.clone(),
        cloud: found.about.cloud,
        context,
        seconds: began.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(label("rack=7"), Ok(("rack".to_owned(), "7".to_owned())));
        for wrong in ["rack", "=7", "rack=", "rack=a b", "Rack=7"] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
    }
}
