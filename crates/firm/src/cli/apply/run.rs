//! `firm apply` and `firm export`: looks, plans, does what the plan says, and looks again until there is nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::{AppView, CloudView, DomainView, RecordPart, TenantChange, TenantCreate, TenantView};
use base::limits::{APPLY_LOOK_EVERY, CLOUD_FILE_BYTES_MAX, FIRM_WAIT_DEFAULT};
use base::{BoxId, Name, Role, Roles, Span};
use http::Method;
use segment::ProofWords;
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::{Failure, Outcome};
use super::super::firming::{Founding, Until, access, found_cloud, is_founded, wait};
use super::super::out::Tone;
use super::super::segment::{self as nearby, Found, Operator, Seen as Looked};
use super::super::session::Session;
use super::super::{Cx, cloud, contexts, joining, when};
use super::export::export;
use super::file::CloudFile;
use super::model::{Claim, Cloud, Member, Renter, Seen, Standing};
use super::plan::{Plan, Reroles, Step, Wait, plan};
use super::show::{self, PlanView};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm apply cloud.toml\n  firm apply cloud.toml --dry-run          # what it would do, and what it would wait for\n  firm apply cloud.toml --wait --timeout 10m   # boxes that are lacking are waited for\n  firm apply cloud.toml --words amber-otter=\"river candy fabric orbit\"\n\nIt makes what the file says and isn't there yet, and takes nothing away. A second run changes nothing. What the file holds:\ndocs/cloud-toml.md."
)]
pub(crate) struct Args {
    /// The file that says what the cloud is to be
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait for what somebody else must do first, such as boxes that are lacking
    #[arg(long)]
    wait: bool,
    /// Wipe boxes that are named with other roles than they have, and change them
    #[arg(long)]
    reroles: bool,
    /// NAME=WORDS: the proof words that a box's console shows; given again for each box
    #[arg(long, value_name = "NAME=WORDS", value_parser = words)]
    words: Vec<(String, ProofWords)>,
    /// How long all of it may take
    #[arg(long, default_value_t = Span(FIRM_WAIT_DEFAULT))]
    timeout: Span,
    #[command(flatten)]
    place: nearby::Where,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm export > cloud.toml\n  firm export --json | jq -r .toml\n\nA cloud that is made anew from the file has its boxes, tenants, limits and domains, and no releases, data or secrets."
)]
pub(crate) struct ExportArgs {}

fn words(text: &str) -> Result<(String, ProofWords), String> {
    let (name, words) = text.split_once('=').ok_or("write NAME=\"word word word word\"")?;
    let words = words.parse().map_err(|error: segment::words::ProofWordsError| error.to_string())?;
    Ok((name.to_owned(), words))
}

pub(crate) async fn apply(cx: &Cx, args: Args) -> Outcome {
    let file = read(&args.file)?;
    let mut run = Run::new(cx, &args, &file)?;
    let began = Instant::now();
    let mut done = Vec::new();
    let mut said = BTreeSet::new();
    loop {
        let mut seen = run.look().await?;
        let mut known = run.known().await?;
        if known.is_none() && !args.dry_run && Box::pin(run.fetch_access(&mut seen)).await? {
            known = run.known().await?;
        }
        let reroles = if args.reroles { Reroles::Make } else { Reroles::Tell };
        let model: Vec<Seen> = seen.boxes.iter().map(|found| run.seen(found, &seen)).collect();
        let plan = plan(&file, &model, known.as_ref().map(|known| &known.cloud), reroles)
            .map_err(|error| Failure::of(Exit::Usage, &error))?;
        if args.dry_run {
            return show_plan(cx, &plan);
        }
        let converging = known.as_ref().map(|known| converging(&known.view)).unwrap_or_default();
        if plan.is_reached() && converging.is_empty() {
            return show_done(cx, &plan, &done, began);
        }
        let left = args.timeout.0.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(late(&plan, &converging, &args));
        }
        let is_stuck = plan.steps.is_empty() && converging.is_empty();
        if is_stuck && !args.wait && !plan.waits.iter().any(|wait| matches!(wait, Wait::Coming { .. })) {
            return Err(lacking(&plan));
        }
        for line in plan.waits.iter().map(show::wait).chain(converging) {
            if said.insert(line.clone()) {
                cx.out.note(&format!("… {line}"));
            }
        }
        if plan.steps.is_empty() {
            tokio::time::sleep(APPLY_LOOK_EVERY).await;
            continue;
        }
        for step in &plan.steps {
            cx.out.note(&format!("+ {}", show::step(step, &plan.cloud)));
        }
        Box::pin(run.make(&plan, seen, known, left)).await?;
        done.extend(plan.steps.iter().map(|step| show::step(step, &plan.cloud)));
    }
}

fn read(path: &Path) -> Outcome<CloudFile> {
    let unread =
        |error: &std::io::Error| Failure::new(Exit::Refused, format!("`{}` can't be read: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| unread(&error))?.len();
    if length > CLOUD_FILE_BYTES_MAX as u64 {
        return Err(Failure::usage(format!(
            "`{}` has {length} bytes, and {CLOUD_FILE_BYTES_MAX} is the most",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| unread(&error))?;
    CloudFile::read(bytes, &path.display().to_string()).map_err(|error| Failure::of(Exit::Usage, &error))
}

/// One run: whom it looks for, and as whom.
struct Run<'a> {
    cx: &'a Cx,
    args: &'a Args,
    file: &'a CloudFile,
    operator: Operator,
    place: nearby::Where,
    /// Listening once hears everybody; afterwards those are looked at who were heard.
    has_listened: bool,
    /// Where each box was heard: what is looked at by its address later is still of that segment.
    segments: BTreeMap<BoxId, String>,
    view: Option<CloudView>,
}

/// The cloud as it is, and how it was asked.
struct Known {
    session: Session,
    view: CloudView,
    cloud: Cloud,
}

impl<'a> Run<'a> {
    fn new(cx: &'a Cx, args: &'a Args, file: &'a CloudFile) -> Outcome<Self> {
        let mut place = args.place.clone();
        place.at.extend(file.seeds.iter().map(|seed| seed.0));
        Ok(Self {
            cx,
            args,
            file,
            operator: Operator::open()?,
            place,
            has_listened: false,
            segments: BTreeMap::new(),
            view: None,
        })
    }

    async fn look(&mut self) -> Outcome<Looked> {
        let mut place = cloud::place_with(&self.place, self.view.as_ref(), &[]);
        if self.has_listened && !self.args.wait {
            place.listen = Span(Duration::ZERO);
        }
        let seen = nearby::look(&mut self.operator, &place, &[]).await?;
        self.has_listened = true;
        for found in &seen.boxes {
            if !self.place.at.contains(&found.address) {
                self.place.at.push(found.address);
            }
            if found.interface != "-" {
                self.segments.entry(found.about.id).or_insert_with(|| found.interface.clone());
            }
        }
        Ok(seen)
    }

    /// The cloud, where it is founded and this user has a context for it.
    async fn known(&mut self) -> Outcome<Option<Known>> {
        let contexts = contexts::load(&contexts::folder()?)?;
        let name = self.cx.global.context.as_ref().unwrap_or(&self.file.cloud);
        if !contexts.contexts.contains_key(name) {
            return Ok(None);
        }
        let session = Session::of_context(name).await?;
        let Some(view) = cloud::view(&session).await? else {
            return Err(Failure::usage(format!(
                "context {name} is a cloud that isn't made of boxes: `firm up` on one machine"
            ))
            .help("call the new cloud something else, or forget the context: firm context remove NAME"));
        };
        let cloud = model(&session, &view, Some(self.file)).await?;
        self.view = Some(view.clone());
        Ok(Some(Known { session, view, cloud }))
    }

    /// A run that was cut off has founded the cloud and didn't get as far as its context.
    async fn fetch_access(&mut self, seen: &mut Looked) -> Outcome<bool> {
        let knows = |found: &&mut Found| is_founded(&self.file.cloud, &self.operator, found);
        let Some(found) = seen.boxes.iter_mut().find(knows) else { return Ok(false) };
        access(&self.operator, found, &self.file.cloud, self.args.timeout.0).await?;
        Ok(true)
    }

    fn seen(&self, found: &Found, all: &Looked) -> Seen {
        let about = &found.about;
        let given = self
            .args
            .words
            .iter()
            .any(|(name, words)| nearby::is_called(about.id, name) && *words == found.visit.introduction().words);
        let is_sealed = matches!(found.visit.seal(when::now()), Some(Ok(())));
        Seen {
            id: about.id,
            name: all.names().remove(&about.id).unwrap_or_else(|| about.id.long_name()),
            standing: Standing::of(&about.standing).unwrap_or(Standing::Firming),
            why: about.why.clone(),
            cloud: about.cloud.zip(about.cloud_name.clone()),
            roles: about.roles.clone(),
            hardware: about.hardware.clone(),
            segment: self.segments.get(&about.id).cloned(),
            trusted: self.operator.knows(about.id) || is_sealed || given,
            has_twin: !found.twins.is_empty(),
        }
    }

    /// Does all steps of a plan. What can go on by itself is waited for at the end, together.
    async fn make(&mut self, plan: &Plan, seen: Looked, known: Option<Known>, within: Duration) -> Outcome {
        let began = Instant::now();
        let mut found: BTreeMap<BoxId, Found> = seen.boxes.into_iter().map(|found| (found.about.id, found)).collect();
        let mut known = known.map(|known| (known.session, known.view));
        let mut coming: Vec<(Found, Roles)> = Vec::new();
        for step in &plan.steps {
            match step {
                Step::Found { id, roles, labels, domain, tenant, .. } => {
                    let mut first = taken(&mut found, *id)?;
                    let founding = Founding {
                        cloud: plan.cloud.clone(),
                        domain: domain.clone(),
                        tenant: tenant.clone(),
                        roles: roles.clone(),
                        labels: labels.clone(),
                        timeout: within.saturating_sub(began.elapsed()),
                    };
                    let context = Box::pin(found_cloud(self.cx, &mut self.operator, &mut first, &founding)).await?;
                    let session = Session::of_context(&context).await?;
                    let view = cloud::view(&session).await?;
                    let view = view.ok_or_else(|| Failure::new(Exit::Refused, "the new cloud knows of no boxes"))?;
                    known = Some((session, view));
                }
                Step::Join { id, roles, labels, .. } => {
                    let (session, view) = of_cloud(known.as_ref())?;
                    let mut one = taken(&mut found, *id)?;
                    joining::tell(&mut self.operator, session, view, &mut one, roles, labels).await?;
                    coming.push((one, roles.clone()));
                }
                Step::Rerole { id, to, labels, .. } => {
                    let (session, view) = of_cloud(known.as_ref())?;
                    let one = taken(&mut found, *id)?;
                    let boxes = joining::join(self.cx, &mut self.operator, session, view, vec![one], to, labels, false);
                    coming.extend(Box::pin(boxes).await?.into_iter().map(|one| (one, to.clone())));
                }
                Step::TenantCreate { tenant } => {
                    let (session, _) = of_cloud(known.as_ref())?;
                    let body = TenantCreate { tenant: tenant.clone() };
                    let made = session.send::<TenantView>(Method::POST, "/v1/tenants", &body).await;
                    // The cloud is founded with its first.
                    made.map(drop).or_else(|failure| match failure.code() {
                        Some("exists") => Ok(()),
                        _ => Err(failure),
                    })?;
                }
                Step::TenantLimit { tenant, limit, .. } => {
                    let (session, _) = of_cloud(known.as_ref())?;
                    let change = TenantChange { limit: Some(limit.clone()) };
                    let _: TenantView = session.send(Method::PATCH, &format!("/v1/tenants/{tenant}"), &change).await?;
                }
                Step::DomainAdd { tenant, app, domain } => {
                    let (session, _) = of_cloud(known.as_ref())?;
                    let path = format!("/v1/tenants/{tenant}/apps/{app}/domains/{domain}");
                    let _: api::Done = session.send(Method::PUT, &path, &api::DomainAdd::default()).await?;
                }
            }
        }
        for (mut one, roles) in coming {
            let left = within.saturating_sub(began.elapsed());
            wait(self.cx, &self.operator, &mut one, &Until::Firm { roles }, left).await?;
        }
        Ok(())
    }
}

fn taken(found: &mut BTreeMap<BoxId, Found>, id: BoxId) -> Outcome<Found> {
    found.remove(&id).ok_or_else(|| {
        Failure::new(Exit::Unreachable, format!("{} doesn't answer, and is to be told something", id.name()))
            .help("run it again: what is done stays done")
    })
}

fn of_cloud(known: Option<&(Session, CloudView)>) -> Outcome<(&Session, &CloudView)> {
    known.map(|(session, view)| (session, view)).ok_or_else(|| Failure::new(Exit::Refused, "there is no cloud yet"))
}

/// The cloud as a plan knows it. With a file only its tenants' apps and domains are asked for.
async fn model(session: &Session, view: &CloudView, file: Option<&CloudFile>) -> Outcome<Cloud> {
    let tenants: Vec<TenantView> = session.get("/v1/tenants").await?;
    let mut cloud = Cloud {
        id: view.cloud,
        name: view.name.clone(),
        domain: view.domain.clone(),
        boxes: BTreeMap::new(),
        evicted: BTreeSet::new(),
        tenants: BTreeMap::new(),
        domains: BTreeMap::new(),
    };
    for it in &view.boxes {
        let member = Member {
            name: it.name.clone(),
            roles: it.roles.clone(),
            labels: it.labels.clone(),
            joined: it.joined.is_some(),
            leaving: it.leaving,
        };
        cloud.boxes.insert(it.id, member);
    }
    for tenant in tenants {
        let name = tenant.tenant;
        let mut renter = Renter { limit: tenant.limit, apps: BTreeSet::new() };
        if file.is_none_or(|file| file.tenant.contains_key(&name)) {
            let apps: Vec<AppView> = session.get(&format!("/v1/tenants/{name}/apps")).await?;
            for app in apps {
                let domains: Vec<DomainView> =
                    session.get(&format!("/v1/tenants/{name}/apps/{}/domains", app.app)).await?;
                for held in domains {
                    cloud.domains.insert(held.domain, Claim { tenant: name.clone(), app: app.app.clone() });
                }
                renter.apps.insert(app.app);
            }
        }
        cloud.tenants.insert(name, renter);
    }
    Ok(cloud)
}

/// What the cloud is still at, once all its boxes are told what they are.
fn converging(view: &CloudView) -> Vec<String> {
    let mut left = Vec::new();
    for it in &view.boxes {
        match cloud::state(it) {
            "firm" => {}
            state => left.push(format!("{} is {state}", it.name)),
        }
    }
    let keepers = view.boxes.iter().filter(|it| it.roles.has(Role::Persistence) && !it.leaving).count();
    let votes = view.boxes.iter().filter(|it| matches!(it.record, RecordPart::Leads | RecordPart::Votes)).count();
    let wanted = match keepers {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    if view.leader.is_none() {
        left.push("nobody leads the record yet".to_owned());
    } else if votes < wanted {
        left.push(format!("{votes} of {wanted} boxes vote on the record yet"));
    }
    left
}

fn show_plan(cx: &Cx, plan: &Plan) -> Outcome {
    cx.out.answer(&PlanView::of(plan), |out| {
        for (tone, line) in show::lines(plan) {
            out.line(&out.paint(tone, &line))?;
        }
        Ok(())
    })
}

#[derive(Serialize)]
struct Reached<'a> {
    #[serde(flatten)]
    plan: PlanView<'a>,
    done: &'a [String],
    seconds: f64,
}

fn show_done(cx: &Cx, plan: &Plan, done: &[String], began: Instant) -> Outcome {
    let seconds = began.elapsed().as_secs_f64();
    cx.out.answer(&Reached { plan: PlanView::of(plan), done, seconds }, |out| {
        let said = match done.len() {
            0 => "nothing to do".to_owned(),
            1 => "1 thing done".to_owned(),
            several => format!("{several} things done"),
        };
        for (tone, line) in show::lines(plan).into_iter().filter(|(_, line)| !line.starts_with('+')) {
            out.line(&out.paint(tone, &line))?;
        }
        out.line(&format!("{} {said}, after {seconds:.1} s", out.paint(Tone::Good, "✓")))
    })
}

fn lacking(plan: &Plan) -> Failure {
    let waits: Vec<String> = show::lines(plan).into_iter().map(|(_, line)| line).collect();
    Failure::new(Exit::Refused, format!("the cloud is not as the file says:\n  {}", waits.join("\n  ")))
        .help("mend what is lacking and run it again: what is done stays done. --wait waits for it")
}

fn late(plan: &Plan, converging: &[String], args: &Args) -> Failure {
    let waits: Vec<String> = plan
        .steps
        .iter()
        .map(|step| show::step(step, &plan.cloud))
        .chain(plan.waits.iter().map(show::wait))
        .chain(converging.iter().cloned())
        .collect();
    let said = format!("not done after {} s; left:\n  {}", args.timeout.0.as_secs(), waits.join("\n  "));
    Failure::new(Exit::Unknown, said).help("run it again to go on: what is done stays done")
}

#[derive(Serialize)]
struct Exported {
    cloud: Name,
    toml: String,
}

pub(crate) async fn write_back(cx: &Cx, _: &ExportArgs) -> Outcome {
    let session = cx.session().await?;
    let view = cloud::view(&session).await?.ok_or_else(|| {
        Failure::usage("this cloud isn't made of boxes: it is `firm up` on one machine, and has no cloud.toml")
    })?;
    let cloud = model(&session, &view, None).await?;
    let told = Exported { cloud: cloud.name.clone(), toml: export(&cloud, &[]) };
    cx.out.answer(&told, |out| out.line(told.toml.trim_end()))
}
