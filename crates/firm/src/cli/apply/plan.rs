//! The file against what there is: what to do, what is waited for, what differs and stays so.
//!
//! A plan is made of facts alone, so that the same facts give the same plan, and a plan for what a plan has reached is
//! empty. It never takes a box that is somebody else's, or one that nobody has shown to be who it says. It never takes
//! anything away: a box, tenant, limit or domain that the file doesn't name is told of and stays. The one thing that
//! wipes a box of the cloud, a change of its roles, is made only where it was asked for ([`Reroles::Make`]).

use std::collections::{BTreeMap, BTreeSet};

use base::limits::BOXES_UNFIT_TOLD_MAX;
use base::{BoxId, Domain, Name, Role, Roles};
use schemars::JsonSchema;
use serde::Serialize;
use state::Ceiling;

use super::file::{CloudFile, Group, SEGMENT};
use super::fit::{Can, Candidate, Fit, candidates};
use super::model::{Claim, Cloud, Renter, Seen, Standing};
use super::seats::{Seats, Suits, Tier};

/// What is to be done, in this order; what is waited for; and what isn't as the file says and stays so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) cloud: Name,
    pub(crate) steps: Vec<Step>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) differences: Vec<Difference>,
}

/// Labels, as an order carries them.
pub(crate) type Labels = BTreeMap<String, String>;

/// One thing to do. `entry` is the place in the file: boxes[0] is the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Step {
    /// Firm this blank box as the cloud's first.
    Found {
        id: BoxId,
        name: Name,
        roles: Roles,
        labels: Labels,
        domain: String,
        tenant: Name,
        entry: usize,
    },
    /// Let this blank box in, and tell it to join.
    Join {
        id: BoxId,
        name: Name,
        roles: Roles,
        labels: Labels,
        entry: usize,
    },
    /// Wipe this box of the cloud, and let it in again with other roles.
    Rerole {
        id: BoxId,
        name: Name,
        from: Roles,
        to: Roles,
        labels: Labels,
        entry: usize,
    },
    TenantCreate {
        tenant: Name,
    },
    TenantLimit {
        tenant: Name,
        from: Option<Ceiling>,
        limit: Ceiling,
    },
    DomainAdd {
        tenant: Name,
        app: Name,
        domain: Domain,
    },
}

/// What somebody else must do first, or time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "for", rename_all = "snake_case")]
pub(crate) enum Wait {
    /// Too few boxes fit an entry. `asks` is its `where`, `unfit` says why those that are left don't fit, and `more` how
    /// many of them it leaves out.
    Boxes { entry: usize, roles: Roles, asks: String, lacking: usize, wanted: usize, unfit: Vec<Unfit>, more: usize },
    /// A box that is named can't be had.
    Named { entry: usize, roles: Roles, name: Name, why: String },
    /// A box would do, and nobody has compared its proof words.
    Words { entry: usize, id: BoxId, name: Name, roles: Roles },
    /// A box was let in, and hasn't come.
    Coming { id: BoxId, name: Name, roles: Roles, why: String },
    /// These boxes are ready, and there is none yet to found the cloud.
    Founder { ready: Vec<Name> },
    /// A domain's app isn't there yet: nothing that a run waits for.
    App { tenant: Name, app: Name, domain: Domain },
}

/// Why a box can't have a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Unfit {
    pub(crate) name: Name,
    pub(crate) why: String,
}

/// What isn't as the file says, and stays so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Difference {
    /// A box of the cloud that no entry wants.
    Unwanted { id: BoxId, name: Name, roles: Roles },
    /// A box that is named has other roles. `why` says what stands against a change that was asked for.
    Roles { id: BoxId, name: Name, roles: Roles, wanted: Roles, why: Option<String> },
    /// A box has other labels than it would be given now.
    Labels { id: BoxId, name: Name, labels: Labels, wanted: Labels },
    /// The record has it, and it is something else by now.
    Astray { id: BoxId, name: Name, roles: Roles, why: String },
    /// The cloud's domain was chosen when it was founded.
    Domain { domain: String, wanted: String },
    /// The file has tenants, and not this one.
    Tenant { tenant: Name },
    /// A tenant has a limit that the file doesn't give it.
    Limit { tenant: Name, limit: Ceiling },
    /// A domain is another app's.
    Claimed { domain: Domain, tenant: Name, app: Name, by_tenant: Name, by_app: Name },
}

/// What becomes of boxes that are named with other roles than they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reroles {
    Make,
    Tell,
}

/// Why the file can't be laid against this cloud at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(
        "the file is of cloud {file}, and the commands go to cloud {found}\n  help: choose the cloud: --context {file}; or \
         write its name in the file: cloud = \"{found}\""
    )]
    OtherCloud { file: Name, found: Name },
    #[error(
        "{cloud} was founded already: {name} is of it\n  help: a second cloud of that name is founded only once \
         that box is reset; to go on with the one there is, get access to it first"
    )]
    Founded { cloud: Name, name: Name },
}

impl Plan {
    /// Is all of it reached? A domain whose app isn't there yet doesn't count: whoever pushes it may take days.
    pub(crate) fn is_reached(&self) -> bool {
        self.steps.is_empty() && self.waits.iter().all(|wait| matches!(wait, Wait::App { .. }))
    }
}

/// The first tenant of a cloud whose file has none.
const FIRST_TENANT: &str = "main";

/// Lays `file` against what was seen and the cloud, which is None until it is founded.
pub(crate) fn plan(
    file: &CloudFile,
    seen: &[Seen],
    cloud: Option<&Cloud>,
    reroles: Reroles,
) -> Result<Plan, PlanError> {
    match cloud {
        Some(cloud) if cloud.name != file.cloud => {
            return Err(PlanError::OtherCloud { file: file.cloud.clone(), found: cloud.name.clone() });
        }
        Some(_) => {}
        None => not_founded(file, seen)?,
    }
    let mut planner = Planner::new(file, candidates(file, seen, cloud), cloud, reroles);
    planner.boxes();
    planner.tenants();
    Ok(planner.plan)
}

/// A cloud is founded once. What a box that isn't trusted says of it counts for nothing.
fn not_founded(file: &CloudFile, seen: &[Seen]) -> Result<(), PlanError> {
    let is_of = |it: &&Seen| {
        let on_its_way = matches!(it.standing, Standing::Firm | Standing::Firming);
        it.trusted && on_its_way && it.cloud.as_ref().is_some_and(|(_, name)| *name == file.cloud)
    };
    match seen.iter().filter(is_of).min_by_key(|it| (&it.name, it.id)) {
        Some(it) => Err(PlanError::Founded { cloud: file.cloud.clone(), name: it.name.clone() }),
        None => Ok(()),
    }
}

struct Planner<'a> {
    file: &'a CloudFile,
    candidates: Vec<Candidate<'a>>,
    cloud: Option<&'a Cloud>,
    reroles: Reroles,
    plan: Plan,
    /// Boxes to let in: the entry, then the box.
    joins: Vec<(usize, usize)>,
    /// Will there be a cloud to do anything in, once the steps for boxes are done?
    is_founded: bool,
}

/// Who is let in first to places that are counted.
const SERVES: Tier = 0;
/// Boxes of the cloud that nobody sees: those that are seen are known to fit.
const SERVES_UNSEEN: Tier = 1;
const COMES: Tier = 2;
const JOINS_AGAIN: Tier = 3;
const JOINS: Tier = 4;
const IS_TO_BE_TRUSTED: Tier = 5;

impl<'a> Planner<'a> {
    fn new(file: &'a CloudFile, candidates: Vec<Candidate<'a>>, cloud: Option<&'a Cloud>, reroles: Reroles) -> Self {
        let plan = Plan { cloud: file.cloud.clone(), steps: Vec::new(), waits: Vec::new(), differences: Vec::new() };
        Self { file, candidates, cloud, reroles, plan, joins: Vec::new(), is_founded: cloud.is_some() }
    }

    fn boxes(&mut self) {
        let named = self.named();
        let seats = self.seats(&named);
        let mut placed: BTreeMap<usize, usize> =
            named.iter().filter_map(|(it, entry)| Some((*it, (*entry)?))).collect();
        for entry in 0..self.file.boxes.len() {
            placed.extend(seats.of(entry).iter().map(|it| (*it, entry)));
        }
        let mut reroled = Vec::new();
        for (it, entry) in &placed {
            reroled.extend(self.place(*it, *entry));
        }
        for entry in 0..self.file.boxes.len() {
            self.lacking(entry, &seats, &named);
        }
        for it in 0..self.candidates.len() {
            // One that leaves needn't be told that it isn't wanted.
            let is_meant = placed.contains_key(&it) || named.contains_key(&it) || self.candidates[it].can == Can::Leave;
            if let (Some(member), false) = (self.candidates[it].member, is_meant) {
                let (id, name, roles) =
                    (self.candidates[it].id, self.candidates[it].name.clone(), member.roles.clone());
                self.plan.differences.push(match self.astray(&self.candidates[it]) {
                    Some(why) => Difference::Astray { id, name, roles, why },
                    None => Difference::Unwanted { id, name, roles },
                });
            }
        }
        self.join();
        self.rerole(reroled);
    }

    /// The boxes that are named, each with its entry; with none where the name is another's too, so that nobody takes it.
    fn named(&mut self) -> BTreeMap<usize, Option<usize>> {
        let mut named: BTreeMap<usize, Option<usize>> = BTreeMap::new();
        for (entry, group) in self.file.boxes.iter().enumerate() {
            for name in &group.names {
                let wait = |why| Wait::Named { entry, roles: group.roles.clone(), name: name.clone(), why };
                let called = self.called(name);
                match called[..] {
                    [] => self.plan.waits.push(wait("isn't seen: is it on, and on a segment or at a seed?".to_owned())),
                    [it] => {
                        // A box has two names, and the file may have used both.
                        if named.get(&it).is_some_and(Option::is_some) {
                            self.plan.waits.push(wait("is named a second time, by its other name".to_owned()));
                        } else {
                            named.insert(it, Some(entry));
                        }
                    }
                    _ => {
                        let long: Vec<_> =
                            called.iter().map(|it| self.candidates[*it].id.long_name().to_string()).collect();
                        self.plan
                            .waits
                            .push(wait(format!("is the name of several boxes: write {}", long.join(" or "))));
                        for it in called {
                            named.entry(it).or_insert(None);
                        }
                    }
                }
            }
        }
        named
    }

    /// Who is called so. What the cloud calls a box is nobody else's name there.
    fn called(&self, name: &Name) -> Vec<usize> {
        let all = 0..self.candidates.len();
        let member = |it: &usize| {
            let it = &self.candidates[*it];
            it.member.is_some_and(|member| member.name == *name)
        };
        let members: Vec<usize> = all.clone().filter(member).collect();
        if members.is_empty() { all.filter(|it| self.candidates[*it].is_called(name)).collect() } else { members }
    }

    /// Gives the places that are counted to boxes that aren't named.
    fn seats(&self, named: &BTreeMap<usize, Option<usize>>) -> Seats {
        let groups = &self.file.boxes;
        let places = groups.iter().map(|group| if group.names.is_empty() { group.places() } else { 0 }).collect();
        let mut suits = Vec::with_capacity(groups.len());
        let mut unknown: Vec<Vec<usize>> = vec![Vec::new(); self.candidates.len()];
        for (entry, group) in groups.iter().enumerate() {
            let of_group = self.candidates.iter().enumerate().map(|(it, candidate)| {
                if named.contains_key(&it) || !group.names.is_empty() {
                    return None;
                }
                let tier = self.tier(candidate, group)?;
                match candidate.fit(&group.selector, self.file) {
                    Fit::Yes => Some(Suits { tier, cost: cost(candidate, group) }),
                    Fit::Unknown => {
                        unknown[it].push(entry);
                        None
                    }
                    Fit::No(_) => None,
                }
            });
            suits.push(of_group.collect());
        }
        let mut seats = Seats::new(places, suits, self.values(), self.segments());
        seats.fill(SERVES);
        seats.fill(SERVES_UNSEEN);
        seats.fill(COMES);
        // Those of the cloud of whom nobody knows whether they fit have what is left, before anybody new.
        for (it, entries) in unknown.iter().enumerate() {
            if let (None, Some(entry)) = (seats.holder(it), entries.iter().find(|entry| seats.free(**entry) > 0)) {
                seats.put(*entry, it);
            }
        }
        for tier in [JOINS_AGAIN, JOINS, IS_TO_BE_TRUSTED] {
            seats.fill(tier);
        }
        seats
    }

    /// In which turn a box may have a place of this group; None where it may not. A box of the cloud has places of its own
    /// roles alone.
    fn tier(&self, candidate: &Candidate<'_>, group: &Group) -> Option<Tier> {
        let is_its = candidate.member.is_some_and(|member| member.roles == group.roles);
        match candidate.can {
            // It may come back, and a place that it alone would have is kept for it.
            Can::Serve if is_its && self.astray(candidate).is_some() => Some(COMES),
            Can::Serve if is_its => Some(if candidate.seen.is_some() { SERVES } else { SERVES_UNSEEN }),
            Can::Come { .. } if is_its => Some(COMES),
            Can::Join if is_its => Some(JOINS_AGAIN),
            Can::Join => Some(JOINS),
            Can::BeTrusted => Some(IS_TO_BE_TRUSTED),
            Can::Serve | Can::Come { .. } | Can::Leave | Can::Nothing { .. } => None,
        }
    }

    /// A number for each value of the label that a group is spread over.
    fn values(&self) -> Vec<Vec<u32>> {
        let of_group = |group: &Group| {
            let key = group.spread.as_ref().filter(|key| key.as_str() != SEGMENT);
            numbered(self.candidates.iter().map(|it| key.and_then(|key| it.label(key))))
        };
        self.file.boxes.iter().map(of_group).collect()
    }

    fn segments(&self) -> Vec<u32> {
        numbered(self.candidates.iter().map(|it| it.seen.and_then(|seen| seen.segment.as_deref())))
    }

    /// A box has this entry's place. What follows, and what it would be reroled from.
    fn place(&mut self, it: usize, entry: usize) -> Option<(usize, usize)> {
        let group = &self.file.boxes[entry];
        let candidate = &self.candidates[it];
        let (id, name, roles) = (candidate.id, candidate.name.clone(), group.roles.clone());
        match &candidate.can {
            Can::Join => self.joins.push((entry, it)),
            Can::BeTrusted => self.plan.waits.push(Wait::Words { entry, id, name, roles }),
            Can::Come { why } => self.plan.waits.push(Wait::Coming { id, name, roles, why: why.clone() }),
            Can::Leave => {
                let why = "is leaving the cloud, and may come again after that".to_owned();
                self.plan.waits.push(Wait::Coming { id, name, roles, why });
            }
            Can::Nothing { why } => self.plan.waits.push(Wait::Named { entry, roles, name, why: why.clone() }),
            Can::Serve => return self.serves(it, entry),
        }
        None
    }

    /// A box of the cloud is where it belongs; is it as it should be?
    fn serves(&mut self, it: usize, entry: usize) -> Option<(usize, usize)> {
        let group = &self.file.boxes[entry];
        let candidate = &self.candidates[it];
        let member = candidate.member?;
        let (id, name, roles) = (candidate.id, candidate.name.clone(), member.roles.clone());
        if let Some(why) = self.astray(candidate) {
            self.plan.differences.push(Difference::Astray { id, name, roles, why });
            return None;
        }
        if member.roles != group.roles {
            return Some((entry, it));
        }
        let wanted = labels(candidate, group);
        if wanted.iter().any(|(key, value)| member.labels.get(key) != Some(value)) {
            let labels = member.labels.clone();
            self.plan.differences.push(Difference::Labels { id, name, labels, wanted });
        }
        None
    }

    /// Why a box that joined isn't what the record takes it for.
    fn astray(&self, candidate: &Candidate<'_>) -> Option<String> {
        let seen = candidate.seen.filter(|_| candidate.can == Can::Serve)?;
        let ours = |id| self.cloud.is_some_and(|cloud| cloud.id == id);
        match (seen.standing, &seen.cloud) {
            (_, _) if seen.has_twin => Some("another box has the same key: a disk was copied".to_owned()),
            (Standing::Blank, _) => Some("it is blank".to_owned()),
            (Standing::Firm | Standing::Firming, Some((id, name))) if !ours(*id) => {
                Some(format!("it is of cloud {name}"))
            }
            _ => None,
        }
    }

    /// What an entry that counts still lacks, and why whoever is left can't be it.
    fn lacking(&mut self, entry: usize, seats: &Seats, named: &BTreeMap<usize, Option<usize>>) {
        let group = &self.file.boxes[entry];
        let lacking = if group.names.is_empty() { seats.free(entry) } else { 0 };
        if lacking == 0 {
            return;
        }
        let left = |it: &usize| {
            let candidate = &self.candidates[*it];
            candidate.seen.is_some()
                && candidate.member.is_none()
                && seats.holder(*it).is_none()
                && !named.contains_key(it)
        };
        let mut unfit: Vec<(bool, Unfit)> = (0..self.candidates.len())
            .filter(left)
            .filter_map(|it| {
                let candidate = &self.candidates[it];
                let (is_taken, why) = match (&candidate.can, candidate.fit(&group.selector, self.file)) {
                    (Can::Nothing { why }, _) => (true, why.clone()),
                    (_, Fit::No(why)) => (false, why),
                    _ => return None,
                };
                Some((is_taken, Unfit { name: candidate.name.clone(), why }))
            })
            .collect();
        // Those who are free come first: they could be given what they lack.
        unfit.sort_by_key(|(is_taken, _)| *is_taken);
        let more = unfit.len().saturating_sub(BOXES_UNFIT_TOLD_MAX);
        let unfit = unfit.into_iter().take(BOXES_UNFIT_TOLD_MAX).map(|(_, unfit)| unfit).collect();
        let (roles, asks, wanted) = (group.roles.clone(), group.selector.to_string(), group.places());
        self.plan.waits.push(Wait::Boxes { entry, roles, asks, lacking, wanted, unfit, more });
    }

    /// The first that keeps data founds the cloud, where there is none; then those like it come in, then the others.
    fn join(&mut self) {
        let mut joins = std::mem::take(&mut self.joins);
        let keeps = |entry: usize| self.file.boxes[entry].roles.has(Role::Persistence);
        joins.sort_by_key(|(entry, it)| (!keeps(*entry), *entry, *it));
        if !self.is_founded && joins.first().is_none_or(|(entry, _)| !keeps(*entry)) {
            if !joins.is_empty() {
                let mut ready: Vec<Name> = joins.iter().map(|(_, it)| self.candidates[*it].name.clone()).collect();
                ready.sort();
                self.plan.waits.push(Wait::Founder { ready });
            }
            return;
        }
        for (entry, it) in joins {
            let (group, candidate) = (&self.file.boxes[entry], &self.candidates[it]);
            let (id, name, roles) = (candidate.id, candidate.name.clone(), group.roles.clone());
            let labels = labels(candidate, group);
            self.plan.steps.push(if std::mem::replace(&mut self.is_founded, true) {
                Step::Join { id, name, roles, labels, entry }
            } else {
                let (domain, tenant) = (self.file.domain.clone(), self.first_tenant());
                Step::Found { id, name, roles, labels, domain, tenant, entry }
            });
        }
    }

    fn first_tenant(&self) -> Name {
        let first = self.file.tenant.keys().next().cloned();
        first.unwrap_or_else(|| FIRST_TENANT.parse().expect("it is a name"))
    }

    /// Boxes that are named with other roles than they have. Those that will keep data change first, so that there always
    /// is one that does.
    fn rerole(&mut self, mut reroled: Vec<(usize, usize)>) {
        let keeps = |roles: &Roles| roles.has(Role::Persistence);
        reroled.sort_by_key(|(entry, it)| (!keeps(&self.file.boxes[*entry].roles), *it));
        let strays: BTreeSet<BoxId> = self.plan.differences.iter().filter_map(astray).collect();
        let serving = self.candidates.iter().filter(|it| it.can == Can::Serve && !strays.contains(&it.id));
        let mut keepers = serving.filter_map(|it| it.member).filter(|member| keeps(&member.roles)).count();
        keepers +=
            self.plan.steps.iter().filter(|step| matches!(step, Step::Join { roles, .. } if keeps(roles))).count();
        for (entry, it) in reroled {
            let (group, candidate) = (&self.file.boxes[entry], &self.candidates[it]);
            let Some(member) = candidate.member else { continue };
            let (id, name) = (candidate.id, candidate.name.clone());
            let (from, to) = (member.roles.clone(), group.roles.clone());
            // It is wiped in any case: what it keeps is kept by another meanwhile, or is lost.
            let is_last = keeps(&from) && keepers < 2;
            if self.reroles == Reroles::Make && !is_last {
                match (keeps(&from), keeps(&to)) {
                    (true, false) => keepers -= 1,
                    (false, true) => keepers += 1,
                    _ => {}
                }
                self.plan.steps.push(Step::Rerole { id, name, from, to, labels: labels(candidate, group), entry });
            } else {
                let why = (self.reroles == Reroles::Make).then(|| "no other box keeps the cloud's data".to_owned());
                self.plan.differences.push(Difference::Roles { id, name, roles: from, wanted: to, why });
            }
        }
    }

    fn tenants(&mut self) {
        if !self.is_founded {
            return;
        }
        let (none, nobody) = (BTreeMap::new(), BTreeMap::new());
        let (there, claims) = self.cloud.map_or((&none, &nobody), |cloud| (&cloud.tenants, &cloud.domains));
        if let Some(cloud) = self.cloud.filter(|cloud| cloud.domain != self.file.domain) {
            let (domain, wanted) = (cloud.domain.clone(), self.file.domain.clone());
            self.plan.differences.push(Difference::Domain { domain, wanted });
        }
        let mut created = BTreeSet::new();
        if self.cloud.is_none() {
            created.insert(self.first_tenant());
        }
        let (mut creates, mut limits) = (Vec::new(), Vec::new());
        for (name, tenant) in &self.file.tenant {
            if !there.contains_key(name) && created.insert(name.clone()) {
                creates.push(Step::TenantCreate { tenant: name.clone() });
            }
            let held = there.get(name).and_then(|renter| renter.limit.clone());
            match (&tenant.limit, held) {
                (Some(limit), from) if from.as_ref() != Some(limit) => {
                    limits.push(Step::TenantLimit { tenant: name.clone(), from, limit: limit.clone() });
                }
                (None, Some(limit)) => self.plan.differences.push(Difference::Limit { tenant: name.clone(), limit }),
                _ => {}
            }
        }
        self.plan.steps.extend(creates.into_iter().chain(limits));
        self.domains(there, claims);
        if !self.file.tenant.is_empty() {
            let others = there.keys().filter(|name| !self.file.tenant.contains_key(*name));
            self.plan.differences.extend(others.map(|name| Difference::Tenant { tenant: name.clone() }));
        }
    }

    fn domains(&mut self, there: &BTreeMap<Name, Renter>, claims: &BTreeMap<Domain, Claim>) {
        let wanted = self.file.tenant.iter().flat_map(|(name, tenant)| tenant.domains.iter().map(move |it| (name, it)));
        for (tenant, (domain, app)) in wanted {
            let (tenant, app, domain) = (tenant.clone(), app.clone(), domain.clone());
            match claims.get(&domain) {
                Some(claim) if claim.tenant == tenant && claim.app == app => {}
                Some(Claim { tenant: by_tenant, app: by_app }) => {
                    let (by_tenant, by_app) = (by_tenant.clone(), by_app.clone());
                    self.plan.differences.push(Difference::Claimed { domain, tenant, app, by_tenant, by_app });
                }
                None if there.get(&tenant).is_some_and(|renter| renter.apps.contains(&app)) => {
                    self.plan.steps.push(Step::DomainAdd { tenant, app, domain });
                }
                None => self.plan.waits.push(Wait::App { tenant, app, domain }),
            }
        }
    }
}

fn astray(difference: &Difference) -> Option<BoxId> {
    match difference {
        Difference::Astray { id, .. } => Some(*id),
        _ => None,
    }
}

/// Disks are for those who keep data: they get the largest, others the smallest.
fn cost(candidate: &Candidate<'_>, group: &Group) -> u64 {
    let disk = candidate.disk();
    if group.roles.has(Role::Persistence) { u64::MAX - disk } else { disk }
}

/// What a box is given when it joins: what its places say, and what its entry says over that.
fn labels(candidate: &Candidate<'_>, group: &Group) -> Labels {
    let all = candidate.labels.iter().chain(&group.labels);
    all.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// The same number for the same text.
fn numbered<'t>(texts: impl Iterator<Item = Option<&'t str>>) -> Vec<u32> {
    let mut numbers: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    texts
        .map(|text| {
            let next = u32::try_from(numbers.len()).expect("there are some thousand boxes at the most");
            *numbers.entry(text).or_insert(next)
        })
        .collect()
}
