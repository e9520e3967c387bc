//! Any world of boxes and any file: what holds of every plan.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

const ROLES: [&str; 5] = ["persistence", "web", "auth", "solo", "web,auth"];

fn any_roles() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&ROLES[..])
}

fn any_segment() -> impl Strategy<Value = Option<&'static str>> {
    proptest::sample::select(&[Some("a"), Some("b"), None][..])
}

prop_compose! {
    fn any_where()(
        cores in proptest::option::of(1..4_u32),
        segment in any_segment(),
        rack in proptest::option::weighted(0.2, 7..9_u32),
    ) -> String {
        let all = [
            cores.map(|cores| format!("cores = {cores}")),
            segment.map(|segment| format!("segment = \"{segment}\"")),
            rack.map(|rack| format!("labels = {{ rack = \"{rack}\" }}")),
        ];
        format!("where = {{ {} }}\n", all.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

prop_compose! {
    /// Which boxes are named, and where, is told by `named`: the entry of each.
    fn any_file()(
        groups in proptest::collection::vec((any_roles(), 1..4_u32, any_where(), any::<bool>()), 1..5),
        named in proptest::collection::vec(proptest::option::weighted(0.3, 0..8_usize), WORLD),
        placed in proptest::collection::vec(proptest::option::weighted(0.3, 7..9_u32), WORLD),
        tenants in proptest::collection::btree_map(0..3_usize, (0..3_u32, 0..3_usize), 0..3),
    ) -> CloudFile {
        let mut text = "cloud = \"hut\"\ndomain = \"hut.example\"\n".to_owned();
        for (entry, (roles, count, selector, is_spread)) in groups.iter().enumerate() {
            let names: Vec<String> = (0_u8..).zip(&named).filter(|(_, of)| **of == Some(entry))
                .map(|(number, _)| format!("\"{}\"", if number % 2 == 0 { id(number).name() } else { id(number).long_name() }))
                .collect();
            let _ = write!(text, "[[boxes]]\nroles = \"{roles}\"\n");
            if names.is_empty() {
                let _ = write!(text, "count = {count}\n{selector}");
                text += if *is_spread { "spread = \"rack\"\n" } else { "" };
            } else {
                let _ = write!(text, "names = [{}]\nlabels = {{ line = \"l{entry}\" }}\n", names.join(", "));
            }
        }
        text += "[[boxes]]\nroles = \"persistence\"\ncount = 1\n";
        text += "[[place]]\nsegment = \"a\"\nlabels = { rack = \"7\" }\n[[place]]\nsegment = \"b\"\nlabels = { rack = \"8\" }\n";
        for (number, rack) in (0_u8..).zip(&placed) {
            if let Some(rack) = rack {
                let _ = write!(text, "[[place]]\nboxes = [\"{}\"]\nlabels = {{ rack = \"{rack}\" }}\n", id(number).name());
            }
        }
        for (tenant, (rate, domain)) in tenants {
            let _ = writeln!(text, "[tenant.t{tenant}]");
            if rate > 0 {
                let _ = writeln!(text, "limit = {{ rate = \"{rate}/s\" }}");
            }
            let _ = write!(text, "[tenant.t{tenant}.domains]\n\"d{domain}-{tenant}.example\" = \"app{domain}\"\n");
        }
        file(&text)
    }
}

/// Boxes of a world.
const WORLD: usize = 9;

/// How a box of a world is: seen or not, of the cloud or not.
#[derive(Clone, Debug)]
struct Lot {
    is_seen: bool,
    is_member: bool,
    standing: u8,
    trusted: bool,
    odd: u8,
    cores: u32,
    segment: Option<&'static str>,
    roles: &'static str,
    rack: Option<u32>,
}

prop_compose! {
    fn any_lot()(
        is_seen in proptest::bool::weighted(0.85),
        is_member in proptest::bool::weighted(0.4),
        standing in 0..12_u8,
        trusted in proptest::bool::weighted(0.8),
        odd in 0..20_u8,
        cores in 1..4_u32,
        segment in any_segment(),
        roles in any_roles(),
        rack in proptest::option::of(7..9_u32),
    ) -> Lot {
        Lot { is_seen, is_member, standing, trusted, odd, cores, segment, roles, rack }
    }
}

fn any_world() -> impl Strategy<Value = (Vec<Seen>, Option<Cloud>)> {
    let lots = proptest::collection::vec(any_lot(), WORLD);
    let tenants = proptest::collection::btree_map(0..4_usize, (0..3_u32, 0..3_usize), 0..4);
    (lots, any::<bool>(), tenants).prop_map(|(lots, is_founded, tenants)| {
        let (mut seen, mut cloud) = (Vec::new(), cloud([]));
        for (number, lot) in (0_u8..).zip(lots) {
            let is_member = is_founded && lot.is_member;
            // Members are mostly firm in their cloud, others mostly blank.
            let (standing, of) = match (is_member, lot.standing) {
                (true, 0) | (false, 0..8) => (Standing::Blank, None),
                (true, 1) | (false, 8) => (Standing::Firm, Some((OTHERS, name("barn")))),
                (true, 2) => (Standing::Firming, Some((OURS, name("hut")))),
                (false, 9) => (Standing::Firming, Some((OTHERS, name("barn")))),
                (_, 10) => (Standing::Resetting, None),
                (true, _) => (Standing::Firm, Some((OURS, name("hut")))),
                (false, _) => (Standing::Firm, Some((OTHERS, name("barn")))),
            };
            if is_member {
                let (id, mut member) = member(number, lot.roles);
                member.joined = lot.odd != 0 && (lot.odd != 1 || standing == Standing::Firm);
                member.leaving = lot.odd == 4;
                member.labels.extend(lot.rack.map(|rack| ("rack".to_owned(), rack.to_string())));
                cloud.boxes.insert(id, member);
            } else if lot.odd == 2 {
                cloud.evicted.insert(id(number));
            }
            if lot.is_seen {
                let blank = blank(number);
                seen.push(Seen {
                    standing,
                    cloud: of,
                    hardware: Hardware { cores: lot.cores, ..blank.hardware },
                    segment: lot.segment.map(str::to_owned),
                    trusted: lot.trusted,
                    has_twin: lot.odd == 3,
                    ..blank
                });
            }
        }
        for (tenant, (rate, app)) in tenants {
            let limit = (rate > 0).then(|| Ceiling { rate: format!("{rate}/s").parse().expect("a rate"), burst: None });
            let (tenant, app) = (name(&format!("t{tenant}")), name(&format!("app{app}")));
            cloud.tenants.insert(tenant, Renter { limit, apps: BTreeSet::from([app]) });
        }
        (seen, is_founded.then_some(cloud))
    })
}

fn any_reroles() -> impl Strategy<Value = Reroles> {
    proptest::sample::select(&[Reroles::Make, Reroles::Tell][..])
}

fn keepers(cloud: Option<&Cloud>) -> usize {
    let keeps = |member: &&Member| member.joined && member.roles.has(Role::Persistence);
    cloud.map_or(0, |cloud| cloud.boxes.values().filter(keeps).count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn what_a_plan_reached_has_an_empty_plan(
        file in any_file(),
        (mut seen, mut cloud) in any_world(),
        reroles in any_reroles(),
        broken_off in proptest::option::of(0..6_usize),
    ) {
        if let Some(after) = broken_off {
            let begun = plan(&file, &seen, cloud.as_ref(), reroles).expect("it is the same cloud");
            made(&mut seen, &mut cloud, &begun.steps[..after.min(begun.steps.len())]);
        }
        let first = plan(&file, &seen, cloud.as_ref(), reroles).expect("it is the same cloud");
        made(&mut seen, &mut cloud, &first.steps);
        let second = plan(&file, &seen, cloud.as_ref(), reroles).expect("it is the same cloud");
        prop_assert_eq!(&second.steps, &[], "{:?}", first);
    }

    #[test]
    fn the_order_in_which_boxes_were_seen_says_nothing(
        file in any_file(),
        (seen, cloud) in any_world(),
        reroles in any_reroles(),
        keys in proptest::collection::vec(any::<u8>(), WORLD),
    ) {
        let mut shuffled: Vec<_> = keys.into_iter().zip(seen.clone()).collect();
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<Seen> = shuffled.into_iter().map(|(_, seen)| seen).collect();
        prop_assert_eq!(plan(&file, &seen, cloud.as_ref(), reroles), plan(&file, &shuffled, cloud.as_ref(), reroles));
    }

    #[test]
    fn nobody_is_taken_who_may_not_be(file in any_file(), (seen, cloud) in any_world(), reroles in any_reroles()) {
        let plan = plan(&file, &seen, cloud.as_ref(), reroles).expect("it is the same cloud");
        let (mut taken, mut by_entry) = (BTreeSet::new(), BTreeMap::<usize, usize>::new());
        for (index, step) in plan.steps.iter().enumerate() {
            match step {
                Step::Found { id, roles, entry, .. } | Step::Join { id, roles, entry, .. } => {
                    let it = seen.iter().find(|it| it.id == *id).expect("nobody is told to join who isn't there");
                    prop_assert!(it.standing == Standing::Blank && it.trusted && !it.has_twin, "{:?}", it);
                    prop_assert!(cloud.as_ref().is_none_or(|cloud| !cloud.evicted.contains(id)));
                    let joined = |cloud: &Cloud| cloud.boxes.get(id).is_some_and(|member| member.joined);
                    prop_assert!(!cloud.as_ref().is_some_and(joined));
                    let group = &file.boxes[*entry];
                    prop_assert_eq!(roles, &group.roles);
                    prop_assert!(group.selector.cores.is_none_or(|cores| it.hardware.cores >= cores));
                    prop_assert!(group.selector.segment.is_none() || group.selector.segment == it.segment);
                    let is_founder = matches!(step, Step::Found { .. });
                    prop_assert_eq!(is_founder, cloud.is_none() && index == 0, "the first step founds, and no other");
                    prop_assert!(!is_founder || roles.has(Role::Persistence));
                    prop_assert!(taken.insert(*id), "a box has one place");
                    *by_entry.entry(*entry).or_default() += 1;
                }
                Step::Rerole { id, entry, .. } => {
                    prop_assert_eq!(reroles, Reroles::Make);
                    prop_assert!(!file.boxes[*entry].names.is_empty());
                    prop_assert!(taken.insert(*id), "a box has one place");
                }
                _ => prop_assert!(cloud.is_some() || index > 0, "there is nothing to change before there is a cloud"),
            }
        }
        for wait in &plan.waits {
            match wait {
                Wait::Boxes { entry, lacking, .. } => *by_entry.entry(*entry).or_default() += lacking,
                Wait::Words { entry, id, .. } => {
                    prop_assert!(seen.iter().any(|it| it.id == *id && !it.trusted));
                    prop_assert!(taken.insert(*id), "a box has one place");
                    *by_entry.entry(*entry).or_default() += 1;
                }
                _ => {}
            }
        }
        let founds = plan.waits.iter().all(|wait| !matches!(wait, Wait::Founder { .. }));
        for (entry, found) in by_entry {
            prop_assert!(!founds || found <= file.boxes[entry].places(), "entry {entry}: {:?}", plan);
        }
    }

    #[test]
    fn somebody_always_keeps_the_data(file in any_file(), (mut seen, mut cloud) in any_world()) {
        let plan = plan(&file, &seen, cloud.as_ref(), Reroles::Make).expect("it is the same cloud");
        let mut before = keepers(cloud.as_ref());
        for step in &plan.steps {
            made(&mut seen, &mut cloud, std::slice::from_ref(step));
            let now = keepers(cloud.as_ref());
            prop_assert!(now > 0 || before == 0, "{:?}", step);
            before = now;
        }
    }

    #[test]
    fn what_is_exported_is_reached((mut seen, cloud) in any_world(), seeds in proptest::collection::vec(any::<[u8; 4]>(), 0..3)) {
        let Some(mut cloud) = cloud else { return Ok(()) };
        let (first, lone) = member(200, "persistence");
        cloud.boxes.insert(first, lone);
        for (domain, tenant) in (0..).zip(cloud.tenants.keys().cloned().collect::<Vec<_>>()) {
            let app = cloud.tenants[&tenant].apps.first().expect("each has one").clone();
            cloud.domains.insert(format!("d{domain}.example").parse().expect("a domain"), Claim { tenant, app });
        }
        // As it is when all is well: everybody has come, and nobody is astray.
        for (id, member) in &mut cloud.boxes {
            (member.joined, member.leaving) = (true, false);
            firm(&mut seen, *id, member.roles.clone());
        }
        seen.retain(|it| !it.has_twin);
        let seeds: Vec<_> = seeds.into_iter().map(|ip| (ip, 7741).into()).collect();
        let text = export(&cloud, &seeds);
        let read = file(&text);
        prop_assert_eq!(read.seeds.iter().map(|seed| seed.0).collect::<Vec<_>>(), seeds);
        let plan = planned(&read, &seen, Some(&cloud));
        prop_assert_eq!((plan.steps, plan.waits, plan.differences), (vec![], vec![], vec![]), "{}", text);
    }
}
