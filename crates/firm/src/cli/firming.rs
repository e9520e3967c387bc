//! `firm firm` and `firm reset`: a box becomes something, or nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base::limits::{BOX_LABELS_MAX, FIRM_WAIT_DEFAULT, KNOCK_ANSWER_TIME_MAX};
use base::{BoxId, CloudId, Name, Role, Roles, Span};
use firming::{Assignment, Order, OrderId, Way, What};
use segment::ProofWords;
use segment::authority::draw_cloud;
use segment::knock::VisitError;
use segment::seal::SealDoubt;
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::{Out, Tone};
use super::segment::{self as nearby, Found, LOOK_AGAIN, Operator};
use super::session::{self, Session};
use super::{Cx, cloud, contexts, joining, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm firm solo amber-otter                                   # a whole cloud on one box\n  firm firm persistence amber-otter brisk-heron calm-ibex      # the first founds the cloud, the others join it\n  firm firm web dapper-lynx --words \"river candy fabric orbit\"  # as its console shows them\n  firm firm web calm-ibex                                      # it was persistence: it leaves, is wiped, and is web\n  firm firm solo amber-otter --cloud hut --domain hut.example --label rack=7\n\nBoxes join the cloud of the context, where there is one that is made of boxes; otherwise, or with --new, the first of them\nfounds a cloud. A box is wiped before it becomes anything. It is firmed only when its proof words were compared, by you or\nwith --words, or when it was started with your seal (`firm operator seal`). --yes skips no comparing."
)]
pub(super) struct FirmArgs {
    /// persistence, web, auth, several with commas, or solo, which is all three
    #[arg(value_name = "ROLES")]
    roles: Roles,
    /// The boxes' names, as `firm boxes` shows them
    #[arg(value_name = "BOX", required = true)]
    names: Vec<String>,
    /// The four proof words that the box's console shows; for several boxes NAME=WORDS, given again for each
    #[arg(long, value_name = "WORDS", value_parser = words)]
    words: Vec<(Option<String>, ProofWords)>,
    /// Found a new cloud, whatever the context says
    #[arg(long)]
    new: bool,
    /// What a new cloud, and the context for it, is called [default: cloud]. With another name than that of the context's
    /// cloud, a new one is founded
    #[arg(long, value_name = "NAME")]
    cloud: Option<Name>,
    /// Of a new cloud: apps answer at APP.TENANT.DOMAIN, the API at api.DOMAIN
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// Of a new cloud: its first tenant
    #[arg(long, default_value = "main")]
    first_tenant: Name,
    /// Where the box stands, as in rack=7; may be given again. Boxes with one `rack` are taken to fail together
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Don't ask whether a box of the cloud may be wiped to become something else
    #[arg(long, short)]
    yes: bool,
    /// Let it leave even when it holds databases, which are lost
    #[arg(long)]
    lose_data: bool,
    /// How long to wait until all of them are firm
    #[arg(long, default_value_t = Span(FIRM_WAIT_DEFAULT))]
    timeout: Span,
    #[command(flatten)]
    place: nearby::Where,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm reset amber-otter\n  firm reset amber-otter --yes\n  firm reset amber-otter --force   # its cloud is not asked\n\nThe box leaves its cloud, which does without it from then on, deletes everything that its cloud gave it, and is blank. It\nworks from every state. A box that can't be reached is put out of its cloud by `firm evict`."
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
    /// Even when it holds databases, which are lost
    #[arg(long)]
    lose_data: bool,
    /// Don't ask its cloud, which may be unable to go on without it
    #[arg(long)]
    force: bool,
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

/// Words for one box, or `NAME=WORDS`.
fn words(text: &str) -> Result<(Option<String>, ProofWords), String> {
    let (name, words) = match text.split_once('=') {
        Some((name, words)) => (Some(name.to_owned()), words),
        None => (None, text),
    };
    words.parse().map(|words| (name, words)).map_err(|error: segment::words::ProofWordsError| error.to_string())
}

pub(super) async fn firm(cx: &Cx, args: FirmArgs) -> Outcome {
    let domain = crate::up::cloud_domain(&args.domain)?;
    let labels: BTreeMap<_, _> = args.label.iter().cloned().collect();
    if labels.len() > BOX_LABELS_MAX {
        return Err(Failure::usage(format!("a box has {BOX_LABELS_MAX} labels at the most")));
    }
    let mut wanted = Founding {
        cloud: args.cloud.clone().unwrap_or_else(|| DEFAULT_CLOUD.parse().expect("it is a name")),
        domain,
        tenant: args.first_tenant.clone(),
        roles: args.roles.clone(),
        labels,
        timeout: args.timeout.0,
    };
    let mut operator = Operator::open()?;
    let (session, joined, unreached) = if args.new { (None, None, None) } else { cloud_of_context(cx).await? };
    let joined = joined.filter(|view| args.cloud.as_ref().is_none_or(|cloud| *cloud == view.name));
    if joined.is_none() && !args.roles.has(Role::Persistence) {
        return Err(Failure::usage(format!("a cloud's first box keeps its record, and `{}` doesn't", args.roles))
            .help("firm firm persistence NAME, or firm firm solo NAME, founds one; others join it then"));
    }
    let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
    let place = cloud::place_with(&args.place, joined.as_ref(), &names);
    let mut seen = nearby::look(&mut operator, &place, &names).await?;
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        found.push(seen.take(name)?);
    }
    // A cloud that doesn't answer at a box which isn't its any more is gone with it: the box was reset.
    if let Some((context, failure)) = unreached
        && found.first().is_none_or(|first| context.parse().ok() != Some(first.address.ip()))
    {
        return Err(failure);
    }
    // A cloud whose access was never fetched has a name already.
    if let (None, None, Some(first)) = (&joined, &args.cloud, found.first())
        && let Some(name) = first.about.cloud_name.as_ref().filter(|name| is_founded(name, &operator, first))
    {
        wanted.cloud = name.clone();
    }
    for one in &found {
        let said = words_for(&args, one)?;
        let is_known = joined.as_ref().is_some_and(|view| joining::is_member(view, one))
            || is_founded(&wanted.cloud, &operator, one);
        if !is_known {
            compare(cx, &operator, one, said)?;
        }
    }
    let began = Instant::now();
    let mut told = Vec::with_capacity(found.len());
    let (session, view) = if let (Some(session), Some(view)) = (session, joined) {
        (session, view)
    } else {
        let mut first = found.remove(0);
        let context = found_cloud(cx, &mut operator, &mut first, &wanted).await?;
        let founder = self::told(&first, began, Some(context.clone()));
        if found.is_empty() {
            return say_founded(cx, &founder, &context, &wanted);
        }
        told.push(founder);
        let session = Session::of_context(&context).await?;
        let view = cloud::view(&session).await?;
        let nobody = || Failure::new(Exit::Refused, "the cloud that was just founded knows of no boxes");
        (session, view.ok_or_else(nobody)?)
    };
    for one in &found {
        joining::may_change(cx, &view, one, &wanted.roles, args.yes)?;
    }
    let boxes = joining::join(cx, &mut operator, &session, &view, found, &wanted.roles, &wanted.labels, args.lose_data);
    let mut boxes = Box::pin(boxes).await?;
    for one in &mut boxes {
        let left = wanted.timeout.saturating_sub(began.elapsed());
        wait(cx, &operator, one, &Until::Firm { roles: wanted.roles.clone() }, left).await?;
        told.push(self::told(one, began, session.chosen.clone()));
    }
    cx.out.answer(&told, |out| {
        for one in &told {
            say_firm(out, one, &wanted.roles, &view.name)?;
        }
        Ok(())
    })
}

/// The cloud of the context, if it is made of boxes. None where there is no context, or one of `firm up`.
///
/// Where it doesn't answer: at which address, and what to say of it.
async fn cloud_of_context(cx: &Cx) -> Outcome<(Option<Session>, Option<api::CloudView>, Option<(String, Failure)>)> {
    if cx.global.context.is_none() && contexts::load(&contexts::folder()?)?.current.is_none() {
        return Ok((None, None, None));
    }
    let session = match cx.session().await {
        Ok(session) => session,
        Err(failure) => {
            let exit = failure.exit;
            let failure = failure
                .help("the context's cloud must answer for a box to join it; to found another cloud instead: --new");
            if exit != Exit::Unreachable {
                return Err(failure);
            }
            let address = session::choose(&cx.global)?.context.address;
            return Ok((None, None, Some((session::host_of(&address).to_owned(), failure))));
        }
    };
    Ok(match cloud::view(&session).await? {
        Some(view) => (Some(session), Some(view), None),
        None => (None, None, None),
    })
}

fn words_for(args: &FirmArgs, found: &Found) -> Outcome<Option<ProofWords>> {
    let id = found.about.id;
    let mut given = args.words.iter().filter(|(name, _)| match name {
        Some(name) => nearby::is_called(id, name),
        None => args.names.len() == 1,
    });
    if args.names.len() > 1 && args.words.iter().any(|(name, _)| name.is_none()) {
        return Err(Failure::usage("words for several boxes, and it isn't said whose they are")
            .help("write --words \"NAME=word word word word\" for each"));
    }
    Ok(given.next().map(|(_, words)| *words))
}

/// What a cloud is called, where nobody says.
const DEFAULT_CLOUD: &str = "cloud";

/// A cloud that is to be, and what its first box is to be.
pub(super) struct Founding {
    pub(super) cloud: Name,
    pub(super) domain: String,
    pub(super) tenant: Name,
    pub(super) roles: Roles,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) timeout: Duration,
}

/// It was told before, and whoever told it was called away: what is left is to get at it.
pub(super) fn is_founded(cloud: &Name, operator: &Operator, found: &Found) -> bool {
    let about = &found.about;
    about.standing == "firm" && about.cloud_name.as_ref() == Some(cloud) && operator.knows(about.id)
}

/// Makes the box the first of a new cloud, and gets what commands need: the context's name.
pub(super) async fn found_cloud(
    cx: &Cx,
    operator: &mut Operator,
    found: &mut Found,
    founding: &Founding,
) -> Outcome<Name> {
    free(&founding.cloud, found)?;
    if !is_founded(&founding.cloud, operator, found) {
        let cloud = draw_cloud().map_err(|error| Failure::of(Exit::Refused, &error))?;
        let assignment = Assignment {
            cloud,
            name: founding.cloud.clone(),
            roles: founding.roles.clone(),
            way: Way::Found { domain: founding.domain.clone(), tenant: founding.tenant.clone() },
            labels: founding.labels.clone(),
            operators: vec![operator.identity.id()],
            warrant: Some(operator.warrant(cloud, found.about.id, &founding.roles)),
        };
        let order = order(found, What::Firm(Box::new(assignment)))?;
        give(operator, found, &order).await?;
        operator.claim(found.about.id);
        wait(cx, operator, found, &Until::Firm { roles: founding.roles.clone() }, founding.timeout).await?;
        if found.about.cloud != Some(cloud) {
            let name = found.about.id.name();
            return Err(Failure::new(Exit::Refused, format!("{name} is firm, but of another cloud")));
        }
    }
    access(operator, found, &founding.cloud, founding.timeout).await
}

fn say_firm(out: &Out, told: &Told, roles: &Roles, cloud: &Name) -> Outcome {
    let Told { name, seconds, .. } = told;
    let done = out.paint(Tone::Good, "✓");
    out.line(&format!("{done} {name} is {roles} of cloud {cloud}, after {seconds:.1} s"))
}

fn say_founded(cx: &Cx, told: &Told, context: &Name, founded: &Founding) -> Outcome {
    cx.out.answer(told, |out| {
        say_firm(out, told, &founded.roles, &founded.cloud)?;
        let next = if founded.roles.has(Role::Web) {
            "firm new hello --template static && firm push hello"
        } else {
            "firm firm web NAME"
        };
        out.line(&format!("Commands go to context {context} from now on. Next:  {next}"))
    })
}

pub(super) async fn reset(cx: &Cx, args: ResetArgs) -> Outcome {
    let mut operator = Operator::open()?;
    let place = if args.force {
        args.place
    } else {
        cloud::place_with(&args.place, cloud::soon(cx).await.as_ref(), &[&args.name])
    };
    let mut found = nearby::look(&mut operator, &place, &[&args.name]).await?.take(&args.name)?;
    compare(cx, &operator, &found, args.words)?;
    let what = match (&found.about.roles, &found.about.cloud_name) {
        (Some(roles), Some(cloud)) => {
            format!("Reset {}, {roles} of cloud {cloud}, and delete all its data?", args.name)
        }
        _ => format!("Reset {}?", args.name),
    };
    cx.out.confirm(&what, args.yes)?;
    let cloud = found.about.cloud_name.clone();
    if !args.force {
        Box::pin(leave_cloud(cx, &operator, &mut found, args.lose_data)).await?;
    }
    let order = order(&found, What::Reset)?;
    let began = Instant::now();
    give(&operator, &mut found, &order).await?;
    wait(cx, &operator, &mut found, &Until::Blank, args.timeout.0).await?;
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

/// The box's cloud does without it from now on. A cloud of this box alone goes with it.
async fn leave_cloud(cx: &Cx, operator: &Operator, found: &mut Found, lose_data: bool) -> Outcome {
    let (Some(id), Some(name)) = (found.about.cloud, found.about.cloud_name.clone()) else { return Ok(()) };
    if found.about.standing != "firm" {
        return Ok(());
    }
    let me = found.about.id;
    let unasked = |failure: Failure| {
        failure.help(format!(
            "cloud {name} can't be asked whether it goes on without {}; reset it all the same: --force",
            me.name()
        ))
    };
    let known = contexts::load(&contexts::folder()?)?;
    let candidates = cx.global.context.iter().chain(&known.current).chain([&name]);
    let mut failed = None;
    for context in candidates.filter(|context| known.contexts.contains_key(*context)) {
        let view = match Session::of_context(context).await {
            Ok(session) => cloud::view(&session).await.map(|view| (session, view)),
            Err(failure) => Err(failure),
        };
        match view {
            Ok((session, Some(view))) if view.cloud == id => {
                return leave(cx, &session, &view, me, lose_data).await;
            }
            Ok(_) => {}
            Err(failure) => failed = Some(failure),
        }
    }
    if let Some(failure) = failed {
        return Err(unasked(failure));
    }
    // Without a context for it the box's own door gives access to its cloud.
    let answer = found.visit.access(operator.wish(id, me)?).await.map_err(|error| unasked(refused(found, &error)))?;
    let session = Session::of(access_at(answer, found.address)?).await.map_err(unasked)?;
    match cloud::view(&session).await.map_err(unasked)? {
        Some(view) => leave(cx, &session, &view, me, lose_data).await,
        None => Ok(()),
    }
}

async fn leave(cx: &Cx, session: &Session, view: &api::CloudView, me: BoxId, lose_data: bool) -> Outcome {
    match view.boxes.iter().find(|it| it.id == me) {
        Some(it) if view.boxes.len() > 1 => cloud::remove(cx, session, view, it, false, lose_data).await,
        _ => Ok(()),
    }
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

/// The context of the box's cloud leads to another of its boxes from now on. Of a cloud that was this box alone it is forgotten.
fn forget(cloud: &Name, found: &Found) -> Outcome<Option<Name>> {
    let folder = contexts::folder()?;
    let ip = |address: &str| address.parse::<SocketAddr>().ok().map(|address| address.ip());
    let is_its = |context: &api::Context| ip(&context.address) == Some(found.address.ip());
    if !contexts::load(&folder)?.contexts.get(cloud).is_some_and(is_its) {
        return Ok(None);
    }
    let mut is_forgotten = false;
    contexts::change(&folder, |known| {
        if known.contexts.get_mut(cloud).is_none_or(|context| leads_elsewhere(context, found.address.ip())) {
            return;
        }
        is_forgotten = true;
        known.contexts.remove(cloud);
        if known.current.as_ref() == Some(cloud) {
            known.current = None;
        }
    })?;
    Ok(is_forgotten.then(|| cloud.clone()))
}

/// Has the cloud other boxes than the one at this address? Then the context leads to one of those.
fn leads_elsewhere(context: &mut api::Context, gone: IpAddr) -> bool {
    context.also.retain(|address| address.parse::<SocketAddr>().is_ok_and(|address| address.ip() != gone));
    if context.also.is_empty() {
        return false;
    }
    context.address = context.also.remove(0);
    true
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

pub(super) fn order(found: &Found, what: What) -> Outcome<Order> {
    let id = OrderId(data_encoding::HEXLOWER.encode(&nearby::random::<16>()?));
    Ok(Order { id, to: found.about.id, what })
}

/// Gives the box an order, over a line of its own: the one that there was may have been idle for long. A line that breaks before
/// the answer says nothing of whether the order was taken, so it is given again: an order that comes twice is one.
pub(super) async fn give(operator: &Operator, found: &mut Found, order: &Order) -> Outcome {
    let began = Instant::now();
    loop {
        let given = async {
            found.visit = operator.knock(found.address, Some(found.about.id)).await?;
            found.visit.order(order).await
        };
        match given.await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error, VisitError::Refused(_)) || began.elapsed() > KNOCK_ANSWER_TIME_MAX => {
                return Err(refused(found, &error));
            }
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
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

/// What a box is waited for to be.
pub(super) enum Until {
    Blank,
    Firm { roles: Roles },
}

impl Until {
    fn is(&self, about: &segment::knock::About) -> bool {
        match self {
            Self::Blank => about.standing == "blank",
            Self::Firm { roles } => {
                about.standing == "firm" && about.why.is_none() && about.roles.as_ref() == Some(roles)
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Firm { .. } => "firm",
        }
    }
}

/// Waits until the box is what it was told to be, and says what it is meanwhile.
pub(super) async fn wait(cx: &Cx, operator: &Operator, found: &mut Found, wanted: &Until, within: Duration) -> Outcome {
    let began = Instant::now();
    let name = found.about.id.name();
    let mut said = String::new();
    loop {
        let now = match found.again(operator).await {
            Ok(about) if wanted.is(&about) => return Ok(()),
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
                format!("{name} is not {} after {} s: {now}", wanted.word(), within.as_secs()),
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
pub(super) async fn access(operator: &Operator, found: &mut Found, cloud: &Name, within: Duration) -> Outcome<Name> {
    let began = Instant::now();
    let answer = loop {
        let of = found.about.cloud.ok_or_else(|| Failure::new(Exit::Refused, "the box is of no cloud"))?;
        let wish = operator.wish(of, found.about.id)?;
        match found.visit.access(wish).await {
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
    let context = access_at(answer, found.address)?;
    contexts::register(cloud, context, true)?;
    Ok(cloud.clone())
}

/// What a door gave, as a context that leads there.
fn access_at(answer: serde_json::Value, mut address: SocketAddr) -> Outcome<api::Context> {
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
    address.set_port(port);
    context.address = address.to_string();
    Ok(context)
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
    fn a_context_outlives_a_box_of_a_cloud_of_several() {
        let (first, second) = ("10.0.0.1:443".to_owned(), "10.0.0.2:443".to_owned());
        let mut context = api::Context {
            address: first.clone(),
            also: vec![first, second.clone()],
            host: "api.localhost".to_owned(),
            authority: String::new(),
            token: String::new(),
            tenant: "main".parse().expect("a name"),
        };
        let gone = |text: &str| text.parse().expect("an address");
        assert!(leads_elsewhere(&mut context, gone("10.0.0.1")));
        assert_eq!((&context.address, context.also.len()), (&second, 0));
        assert!(!leads_elsewhere(&mut context, gone("10.0.0.2")), "the last box takes its cloud with it");
    }

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(label("rack=7"), Ok(("rack".to_owned(), "7".to_owned())));
        for wrong in ["rack", "=7", "rack=", "rack=a b", "Rack=7"] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
    }
}
