//! What plans make of boxes and clouds.

mod text;
mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use base::limits::BOXES_UNFIT_TOLD_MAX;
use base::{BoxId, CloudId, Name, Role, Roles};
use expect_test::{Expect, expect};
use segment::knock::Hardware;
use state::Ceiling;

use super::export::export;
use super::file::CloudFile;
use super::model::{Claim, Cloud, Member, Renter, Seen, Standing};
use super::plan::{Difference, Plan, PlanError, Reroles, Step, Wait, plan};
use super::show::{PlanView, lines};

const OURS: CloudId = CloudId([5; 16]);
const OTHERS: CloudId = CloudId([6; 16]);

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn file(text: &str) -> CloudFile {
    CloudFile::read(text.into(), "cloud.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn id(number: u8) -> BoxId {
    BoxId([number; 32])
}

/// A blank box with the operator's seal.
fn blank(number: u8) -> Seen {
    Seen {
        id: id(number),
        name: id(number).name(),
        standing: Standing::Blank,
        why: None,
        cloud: None,
        roles: None,
        hardware: Hardware { cores: 2, memory: 4 << 30, disks: vec![20 << 30] },
        segment: Some("a".to_owned()),
        trusted: true,
        has_twin: false,
    }
}

fn member(number: u8, roles: &str) -> (BoxId, Member) {
    let roles = roles.parse().expect("roles");
    (id(number), Member { name: id(number).name(), roles, labels: BTreeMap::new(), joined: true, leaving: false })
}

fn cloud(boxes: impl IntoIterator<Item = (BoxId, Member)>) -> Cloud {
    Cloud {
        id: OURS,
        name: name("hut"),
        domain: "hut.example".to_owned(),
        boxes: boxes.into_iter().collect(),
        evicted: BTreeSet::new(),
        tenants: BTreeMap::new(),
        domains: BTreeMap::new(),
    }
}

/// What the steps make of the world, when all goes well.
fn made(seen: &mut [Seen], cloud: &mut Option<Cloud>, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::Found { id, name, roles, labels, domain, tenant, .. } => {
                assert_eq!(*cloud, None, "a cloud is founded once");
                let mut founded =
                    self::cloud([(id, Member { name, roles: roles.clone(), labels, joined: true, leaving: false })]);
                founded.domain = domain;
                founded.tenants.insert(tenant, Renter::default());
                *cloud = Some(founded);
                firm(seen, id, roles);
            }
            Step::Join { id, name, roles, labels, .. } => {
                let member = Member { name, roles: roles.clone(), labels, joined: true, leaving: false };
                there(cloud).boxes.insert(id, member);
                firm(seen, id, roles);
            }
            Step::Rerole { id, to, labels, .. } => {
                let member = there(cloud).boxes.get_mut(&id).expect("it is of the cloud");
                (member.roles, member.labels) = (to.clone(), labels);
                firm(seen, id, to);
            }
            Step::TenantCreate { tenant } => {
                assert_eq!(there(cloud).tenants.insert(tenant, Renter::default()), None, "a tenant is created once");
            }
            Step::TenantLimit { tenant, from, limit } => {
                let renter = there(cloud).tenants.get_mut(&tenant).expect("it was created before");
                assert_eq!(renter.limit, from);
                renter.limit = Some(limit);
            }
            Step::DomainAdd { tenant, app, domain } => {
                let cloud = there(cloud);
                assert!(cloud.tenants[&tenant].apps.contains(&app));
                assert_eq!(cloud.domains.insert(domain, Claim { tenant, app }), None, "nobody loses a domain");
            }
        }
    }
}

fn there(cloud: &mut Option<Cloud>) -> &mut Cloud {
    cloud.as_mut().expect("it was founded before")
}

fn firm(seen: &mut [Seen], id: BoxId, roles: Roles) {
    if let Some(it) = seen.iter_mut().find(|it| it.id == id) {
        (it.standing, it.cloud, it.roles) = (Standing::Firm, Some((OURS, name("hut"))), Some(roles));
    }
}

fn planned(file: &CloudFile, seen: &[Seen], cloud: Option<&Cloud>) -> Plan {
    plan(file, seen, cloud, Reroles::Tell).unwrap_or_else(|error| panic!("{error}"))
}

fn check(plan: &Plan, expected: &Expect) {
    let lines: Vec<String> = lines(plan).into_iter().map(|(_, line)| line).collect();
    expected.assert_eq(&lines.join("\n"));
}

const SIX: &str = r#"
cloud = "hut"
domain = "hut.example"
[[boxes]]
roles = "persistence"
count = 3
[[boxes]]
roles = "web"
count = 2
[[boxes]]
roles = "auth"
count = 1
[tenant.acme]
limit = { rate = "500/s", burst = 1000 }
[tenant.acme.domains]
"shop.example" = "shop"
[tenant.brew]
"#;

/// Six blank boxes on two segments.
fn six() -> Vec<Seen> {
    let on = |number: u8| Seen { segment: Some(if number <= 3 { "a" } else { "b" }.to_owned()), ..blank(number) };
    (1..=6).map(on).collect()
}

#[test]
fn six_blank_boxes_become_a_cloud_and_stay_it() {
    let (file, mut seen, mut cloud) = (file(SIX), six(), None);
    let first = planned(&file, &seen, None);
    check(
        &first,
        &expect![[r"
        + canny-owl founds cloud hut at hut.example as persistence, with tenant acme
        + direct-sloth joins as persistence
        + nimble-bongo joins as persistence
        + rainy-rook joins as web
        + tall-shrimp joins as web
        + sunny-grouse joins as auth
        + tenant brew
        + all apps of acme together take 500/s, 1000 at once
        … shop.example waits for app shop, which acme hasn't pushed yet
        hut: 8 things to do, 1 is waited for"]],
    );
    assert!(!first.is_reached());
    made(&mut seen, &mut cloud, &first.steps);
    let second = planned(&file, &seen, cloud.as_ref());
    check(
        &second,
        &expect![[r"
        … shop.example waits for app shop, which acme hasn't pushed yet
        hut: 1 is waited for"]],
    );
    assert!(second.is_reached(), "an app that isn't there yet is nothing that a run waits for");
    there(&mut cloud).tenants.get_mut("acme").expect("it is there").apps.insert(name("shop"));
    let third = planned(&file, &seen, cloud.as_ref());
    check(
        &third,
        &expect![[r"
        + shop.example is answered by shop of acme
        hut: 1 thing to do"]],
    );
    made(&mut seen, &mut cloud, &third.steps);
    check(&planned(&file, &seen, cloud.as_ref()), &expect!["hut is as the file says"]);
}

#[test]
fn what_is_lacking_says_why_nobody_else_fits() {
    let mut seen = six();
    seen[0].hardware.cores = 1;
    seen[1].hardware.disks = vec![10 << 30];
    seen[2].hardware.memory = 2 << 30;
    seen[3].trusted = false;
    (seen[4].standing, seen[4].cloud) = (Standing::Firm, Some((OTHERS, name("barn"))));
    seen[5].has_twin = true;
    let file = file(
        r#"cloud = "hut"
        [[boxes]]
        roles = "persistence"
        count = 2
        where = { cores = 2, memory = "4GiB", disk = "20GiB" }
        [[boxes]]
        roles = "web"
        count = 1"#,
    );
    check(
        &planned(&file, &seen, None),
        &expect![[r#"
        … rainy-rook is to be persistence, and its proof words must be compared: firm firm persistence rainy-rook, or --words rainy-rook="word word word word"
        … boxes[0]: 1 blank box is lacking of 2 for persistence with cores = 2, memory = "4GiB", disk = "20GiB"
            canny-owl has 2GiB of memory, 4GiB are wanted
            nimble-bongo has 1 core, 2 are wanted
            direct-sloth has the key of another box: a disk was copied
            sunny-grouse is firm in cloud barn
        … tall-shrimp is ready and waits for the first box with persistence, which founds the cloud
        hut: 3 are waited for"#]],
    );
}

#[test]
fn boxes_that_are_named_are_the_ones() {
    let file = file(
        r#"cloud = "hut"
        domain = "hut.example"
        [[boxes]]
        roles = "persistence"
        names = ["cosmic-sloth", "opal-coyote"]
        [[boxes]]
        roles = "web"
        names = ["nimble-bongo"]
        labels = { line = "fast" }"#,
    );
    let seen = [Seen { trusted: false, ..blank(1) }, blank(0), blank(7)];
    check(
        &planned(&file, &seen, None),
        &expect![[r#"
        + cosmic-sloth founds cloud hut at hut.example as persistence, with tenant main
        … boxes[0]: opal-coyote, which is to be persistence, isn't seen: is it on, and on a segment or at a seed?
        … nimble-bongo is to be web, and its proof words must be compared: firm firm web nimble-bongo, or --words nimble-bongo="word word word word"
        hut: 1 thing to do, 2 are waited for"#]],
    );
    // With other roles than they have.
    let others = cloud([member(0, "persistence"), member(1, "auth"), member(255, "web"), member(7, "auth")]);
    check(
        &planned(&file, &[], Some(&others)),
        &expect![[r"
        ! tiny-okapi is auth of the cloud, and the file doesn't want it: write it there, or take it out: firm reset tiny-okapi
        ! opal-coyote is web and is to be persistence: it is wiped and changed with --reroles
        ! nimble-bongo is auth and is to be web: it is wiped and changed with --reroles
        hut: 3 differ and stay so"]],
    );
    let made = plan(&file, &[], Some(&others), Reroles::Make).expect("it is the same cloud");
    check(
        &made,
        &expect![[r"
        ~ opal-coyote becomes persistence and was web: it is wiped first
        ~ nimble-bongo becomes web and was auth: it is wiped first
        ! tiny-okapi is auth of the cloud, and the file doesn't want it: write it there, or take it out: firm reset tiny-okapi
        hut: 2 things to do, 1 differs and stays so"]],
    );
}

#[test]
fn the_last_box_that_keeps_data_is_not_wiped() {
    let text = r#"cloud = "hut"
        domain = "hut.example"
        [[boxes]]
        roles = "web"
        names = ["nimble-bongo"]
        [[boxes]]
        roles = "persistence"
        names = ["cosmic-sloth"]"#;
    let one = cloud([member(1, "persistence")]);
    let make = |seen: &[Seen], cloud: &Cloud| {
        plan(&file(text), seen, Some(cloud), Reroles::Make).expect("it is the same cloud")
    };
    check(
        &make(&[], &one),
        &expect![[r"
        … boxes[1]: cosmic-sloth, which is to be persistence, isn't seen: is it on, and on a segment or at a seed?
        ! nimble-bongo is persistence and is to be web, but no other box keeps the cloud's data
        hut: 1 is waited for, 1 differs and stays so"]],
    );
    check(
        &make(&[blank(0)], &one),
        &expect![[r"
        + cosmic-sloth joins as persistence
        ~ nimble-bongo becomes web and was persistence: it is wiped first
        hut: 2 things to do"]],
    );
    // Of two that change places, the one that will keep it changes first.
    check(
        &make(&[], &cloud([member(1, "persistence"), member(0, "web")])),
        &expect![[r"
        ~ cosmic-sloth becomes persistence and was web: it is wiped first
        ~ nimble-bongo becomes web and was persistence: it is wiped first
        hut: 2 things to do"]],
    );
}

#[test]
fn what_isn_t_in_the_file_stays_and_is_told() {
    let text = SIX.replace("count = 3", "count = 1").replace("500/s\"", "7/s\"").replace("limit =", "# limit =");
    let mut old = cloud([member(1, "persistence"), member(2, "persistence"), member(3, "web"), member(4, "auth")]);
    old.domain = "barn.example".to_owned();
    old.boxes.get_mut(&id(3)).expect("it is there").labels.insert("rack".to_owned(), "7".to_owned());
    old.boxes.get_mut(&id(4)).expect("it is there").joined = false;
    let limit = Some(Ceiling { rate: "9/s".parse().expect("a rate"), burst: None });
    old.tenants.insert(name("acme"), Renter { limit, apps: BTreeSet::from([name("shop")]) });
    old.tenants.insert(name("corp"), Renter::default());
    let claim = Claim { tenant: name("corp"), app: name("site") };
    old.domains.insert("shop.example".parse().expect("a domain"), claim);
    let file = file(&(text + "[[place]]\nboxes = [\"nimble-bongo\"]\nlabels = { rack = \"9\" }\n"));
    let seen = [
        Seen { segment: None, ..blank(1) },
        Seen {
            standing: Standing::Firming,
            cloud: Some((OURS, name("hut"))),
            why: Some("no door answers".into()),
            ..blank(4)
        },
    ];
    check(
        &planned(&file, &seen, Some(&old)),
        &expect![[r"
            + tenant brew
            … rainy-rook, which is to be auth, is firming for this cloud, hut: no door answers
            … boxes[1]: 1 blank box is lacking of 2 for web
            ! nimble-bongo is persistence in the record, but it is blank: take it out of the cloud, or bring it back
            ! the cloud's domain is barn.example, and not hut.example: it was chosen when the cloud was founded
            ! all apps of acme together take 9/s, and the file has no limit: firm tenant limit acme --none takes it away
            ! shop.example is to be answered by shop of acme, and belongs to site of corp: it has to be removed there first
            ! there is a tenant corp that the file doesn't name
            hut: 1 thing to do, 2 are waited for, 5 differ and stay so"]],
    );
}

#[test]
fn labels_of_a_box_that_joined_are_told_when_they_differ() {
    let text = |rack: &str| {
        format!(
            "cloud = \"hut\"\ndomain = \"hut.example\"\n[[boxes]]\nroles = \"persistence\"\ncount = 1\n\
             [[place]]\nsegment = \"a\"\nlabels = {{ rack = \"{rack}\" }}\n"
        )
    };
    let (mut seen, mut cloud) = (vec![blank(1)], None);
    let first = planned(&file(&text("7")), &seen, None);
    made(&mut seen, &mut cloud, &first.steps);
    check(&planned(&file(&text("7")), &seen, cloud.as_ref()), &expect!["hut is as the file says"]);
    check(
        &planned(&file(&text("8")), &seen, cloud.as_ref()),
        &expect![[r"
        ! nimble-bongo has (rack=7) and is to have (rack=8): labels are given when a box joins
        hut: 1 differs and stays so"]],
    );
}

#[test]
fn a_cloud_is_never_taken_for_another() {
    let file = file(SIX);
    let barn = Cloud { name: name("barn"), ..cloud([member(1, "solo")]) };
    let other = plan(&file, &[], Some(&barn), Reroles::Tell);
    assert_eq!(other, Err(PlanError::OtherCloud { file: name("hut"), found: name("barn") }));
    // Its context got lost, but a box that was firmed by this operator is of it.
    let mut seen = six();
    (seen[2].standing, seen[2].cloud) = (Standing::Firming, Some((OURS, name("hut"))));
    let founded = PlanError::Founded { cloud: name("hut"), name: seen[2].name.clone() };
    assert_eq!(plan(&file, &seen, None, Reroles::Tell), Err(founded));
    // What a stranger says is nothing.
    seen[2].trusted = false;
    assert!(matches!(planned(&file, &seen, None).steps[..], [Step::Found { .. }, ..]));
}

#[test]
fn a_box_that_nobody_sees_isn_t_replaced() {
    let text = r#"cloud = "hut"
        domain = "hut.example"
        [[boxes]]
        roles = "persistence"
        count = 1
        [[boxes]]
        roles = "web"
        count = 1
        where = { cores = 4, segment = "b" }
        [[boxes]]
        roles = "web"
        count = 1"#;
    let there = cloud([member(1, "persistence"), member(2, "web"), member(3, "web")]);
    let plan = planned(&file(text), &[blank(4)], Some(&there));
    assert_eq!((&plan.steps[..], &plan.waits[..], &plan.differences[..]), (&[][..], &[][..], &[][..]));
    // Of three, one is too many; and of one, nobody can say where it belongs, but a place is free.
    let others = cloud([member(1, "persistence"), member(2, "web"), member(3, "web"), member(5, "web")]);
    let plan = planned(&file(text), &[blank(4)], Some(&others));
    assert!(matches!(plan.differences[..], [Difference::Unwanted { .. }]) && plan.is_reached(), "{plan:?}");
    let one = cloud([member(1, "persistence"), member(2, "web")]);
    let plan = planned(&file(text), &[blank(4)], Some(&one));
    assert!(plan.steps.is_empty(), "the blank box has 2 cores: {plan:?}");
    assert!(matches!(plan.waits[..], [Wait::Boxes { entry: 1, lacking: 1, .. }]), "{plan:?}");
}

#[test]
fn two_boxes_of_one_name_are_told_apart() {
    let mut by_name: HashMap<Name, BoxId> = HashMap::new();
    let ids = (0..u16::MAX).map(|number| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        BoxId(bytes)
    });
    let twins = ids.into_iter().find_map(|id| by_name.insert(id.name(), id).map(|first| [first, id]));
    let [one, other] = twins.expect("of 65,535 boxes two share one of 65,536 names");
    let seen = [one, other].map(|id| Seen { id, name: id.long_name(), ..blank(1) });
    let file = |called: Name| {
        file(&format!(
            "cloud = \"hut\"\ndomain = \"hut.example\"\n[[boxes]]\nroles = \"persistence\"\nnames = [\"{called}\"]\n"
        ))
    };
    let waits = planned(&file(one.name()), &seen, None);
    assert_eq!(waits.steps, []);
    let Wait::Named { why, .. } = &waits.waits[0] else { panic!("{waits:?}") };
    assert!(why.contains(one.long_name().as_str()) && why.contains(other.long_name().as_str()), "{why}");
    let told = planned(&file(other.long_name()), &seen, None);
    assert!(matches!(&told.steps[..], [Step::Found { id, .. }] if *id == other), "{told:?}");
    // In its cloud the first is called by the short name, and nobody else is meant by it.
    let member = Member { name: one.name(), ..member(1, "persistence").1 };
    let plan = planned(&file(one.name()), &seen, Some(&cloud([(one, member)])));
    assert_eq!(plan.waits, []);
}

#[test]
fn two_hundred_boxes_are_spread_over_rooms_and_segments() {
    let mut text = String::from("cloud = \"hill\"\n");
    for segment in 0..8 {
        let _ = write!(text, "[[place]]\nsegment = \"s{segment}\"\nlabels = {{ room = \"r{}\" }}\n", segment % 2);
    }
    text += "[[boxes]]\nroles = \"persistence\"\ncount = 24\nspread = \"room\"\n[[boxes]]\nroles = \"web\"\ncount = 170\n\
             [[boxes]]\nroles = \"auth\"\ncount = 300\nwhere = { cores = 64 }\n";
    let seen: Vec<Seen> = (0..200)
        .map(|number| Seen {
            segment: Some(format!("s{}", if number < 120 { 0 } else { number % 8 })),
            ..blank(number)
        })
        .collect();
    let plan = planned(&file(&text), &seen, None);
    let segment = |id: &BoxId| seen.iter().find(|it| it.id == *id).and_then(|it| it.segment.clone());
    let mut found: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for step in &plan.steps {
        if let Step::Found { id, entry: 0, .. } | Step::Join { id, entry: 0, .. } = step {
            *found.entry(segment(id)).or_default() += 1;
        }
    }
    assert_eq!(found.into_values().collect::<Vec<_>>(), [3; 8]);
    assert_eq!(plan.steps.iter().filter(|step| matches!(step, Step::Join { entry: 1, .. })).count(), 170);
    let Some(Wait::Boxes { lacking: 300, unfit, more, .. }) = plan.waits.first() else { panic!("{:?}", plan.waits) };
    assert_eq!((unfit.len(), *more), (BOXES_UNFIT_TOLD_MAX.min(6), 6_usize.saturating_sub(BOXES_UNFIT_TOLD_MAX)));
}

#[test]
fn scripts_read_what_people_read() {
    let plan = planned(&file(SIX), &six()[..2], None);
    let json = serde_json::to_string_pretty(&PlanView::of(&plan)).expect("it is plain data");
    expect![[r#"
        {
          "cloud": "hut",
          "reached": false,
          "steps": [
            {
              "do": "found",
              "id": "aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq",
              "name": "nimble-bongo",
              "roles": "persistence",
              "labels": {},
              "domain": "hut.example",
              "tenant": "acme",
              "entry": 0,
              "told": "nimble-bongo founds cloud hut at hut.example as persistence, with tenant acme"
            },
            {
              "do": "join",
              "id": "aibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaiba",
              "name": "tall-shrimp",
              "roles": "persistence",
              "labels": {},
              "entry": 0,
              "told": "tall-shrimp joins as persistence"
            },
            {
              "do": "tenant_create",
              "tenant": "brew",
              "told": "tenant brew"
            },
            {
              "do": "tenant_limit",
              "tenant": "acme",
              "from": null,
              "limit": {
                "rate": "500/s",
                "burst": 1000
              },
              "told": "all apps of acme together take 500/s, 1000 at once"
            }
          ],
          "waits": [
            {
              "for": "boxes",
              "entry": 0,
              "roles": "persistence",
              "asks": "",
              "lacking": 1,
              "wanted": 3,
              "unfit": [],
              "more": 0,
              "told": "boxes[0]: 1 blank box is lacking of 3 for persistence"
            },
            {
              "for": "boxes",
              "entry": 1,
              "roles": "web",
              "asks": "",
              "lacking": 2,
              "wanted": 2,
              "unfit": [],
              "more": 0,
              "told": "boxes[1]: 2 blank boxes are lacking of 2 for web"
            },
            {
              "for": "boxes",
              "entry": 2,
              "roles": "auth",
              "asks": "",
              "lacking": 1,
              "wanted": 1,
              "unfit": [],
              "more": 0,
              "told": "boxes[2]: 1 blank box is lacking of 1 for auth"
            },
            {
              "for": "app",
              "tenant": "acme",
              "app": "shop",
              "domain": "shop.example",
              "told": "shop.example waits for app shop, which acme hasn't pushed yet"
            }
          ],
          "differences": []
        }"#]]
    .assert_eq(&json);
    let schema = serde_json::to_string(&schemars::schema_for!(PlanView<'_>)).expect("it is plain data");
    for word in ["found", "join", "rerole", "tenant_create", "tenant_limit", "domain_add", "founder", "words", "told"] {
        assert!(schema.contains(&format!("\"{word}\"")), "{word}");
    }
}

#[test]
fn an_export_reads_well() {
    let mut it = cloud((1..9).map(|number| member(number, "web")).chain([member(0, "solo")]));
    for number in [0, 1, 2] {
        it.boxes.get_mut(&id(number)).expect("it is there").labels.insert("rack".to_owned(), "7".to_owned());
    }
    let limit = Some(Ceiling { rate: "500/s".parse().expect("a rate"), burst: Some(1000) });
    it.tenants.insert(name("acme"), Renter { limit, apps: BTreeSet::new() });
    it.tenants.insert(name("brew"), Renter::default());
    it.domains.insert("shop.example".parse().expect("a domain"), Claim { tenant: name("acme"), app: name("shop") });
    expect![[r#"
        cloud = "hut"
        domain = "hut.example"
        seeds = ["10.1.0.7"]

        [[boxes]]
        roles = "solo"
        names = ["cosmic-sloth"]

        [[boxes]]
        roles = "web"
        names = [
            "aqua-ibis", "canny-owl", "direct-sloth", "nimble-bongo", "rainy-rook", "sunny-grouse",
            "tall-shrimp", "tiny-okapi",
        ]

        [[place]]
        labels = { rack = "7" }
        boxes = ["cosmic-sloth", "nimble-bongo", "tall-shrimp"]

        [tenant.acme]
        limit = { rate = "500/s", burst = 1000 }

        [tenant.acme.domains]
        "shop.example" = "shop"

        [tenant.brew]
    "#]]
    .assert_eq(&export(&it, &["10.1.0.7:7741".parse().expect("an address")]));
}

#[test]
fn differences_alone_leave_a_plan_reached() {
    let file = file("cloud = \"hut\"\ndomain = \"hut.example\"\n[[boxes]]\nroles = \"persistence\"\ncount = 1\n");
    let two = cloud([member(1, "persistence"), member(2, "web")]);
    let plan = planned(&file, &[], Some(&two));
    assert!(matches!(plan.differences[..], [Difference::Unwanted { .. }]) && plan.is_reached(), "{plan:?}");
}

#[test]
fn a_box_that_leaves_has_no_place() {
    let text = "cloud = \"hut\"\ndomain = \"hut.example\"\n[[boxes]]\nroles = \"persistence\"\ncount = 1\n\
                [[boxes]]\nroles = \"web\"\n";
    let mut there = cloud([member(1, "persistence"), member(2, "auth"), member(3, "web")]);
    for number in [2, 3] {
        there.boxes.get_mut(&id(number)).expect("it is there").leaving = true;
    }
    let counted = planned(&file(&format!("{text}count = 1\n")), &six()[3..4], Some(&there));
    check(
        &counted,
        &expect![[r"
        + rainy-rook joins as web
        hut: 1 thing to do"]],
    );
    let named = planned(&file(&format!("{text}names = [\"tall-shrimp\"]\n")), &six()[3..4], Some(&there));
    check(
        &named,
        &expect![[r"
        … tall-shrimp, which is to be web, is leaving the cloud, and may come again after that
        hut: 1 is waited for"]],
    );
}

#[test]
fn a_box_of_the_cloud_that_is_seen_without_its_segment_isn_t_replaced() {
    let text = "cloud = \"hut\"\ndomain = \"hut.example\"\n[[boxes]]\nroles = \"persistence\"\ncount = 1\n\
                where = { cores = 2, segment = \"a\", labels = { rack = \"7\" } }\n\
                [[place]]\nsegment = \"a\"\nlabels = { rack = \"7\" }\n";
    let (file, mut seen, mut cloud) = (file(text), six(), None);
    let first = planned(&file, &seen, None);
    made(&mut seen, &mut cloud, &first.steps);
    for it in seen.iter_mut().filter(|it| it.standing == Standing::Firm) {
        it.segment = None;
    }
    check(&planned(&file, &seen, cloud.as_ref()), &expect!["hut is as the file says"]);
    // One that isn't of the cloud may be anywhere.
    let nowhere = [Seen { segment: None, ..blank(1) }];
    let Wait::Boxes { unfit, .. } = &planned(&file, &nowhere, None).waits[0] else { panic!("nobody fits") };
    assert_eq!(unfit[0].why, "stands nowhere that has rack=7; is at a seed's address, segment a is wanted");
}
