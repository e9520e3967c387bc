use base::Role;
use proptest::prelude::*;

use super::*;
use crate::Identity;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn cloud() -> CloudId {
    draw_cloud().expect("random bytes")
}

fn found(cloud: CloudId) -> Authority {
    Authority::found(cloud, NOW).expect("made")
}

fn box_id() -> BoxId {
    Identity::generate().expect("a key").id()
}

fn back(from: Timestamp, span: Duration) -> Timestamp {
    Timestamp(from.0 - u64::try_from(span.as_millis()).expect("small"))
}

#[test]
fn a_certificate_says_cloud_box_and_roles() {
    let (authority, id) = (found(cloud()), box_id());
    for roles in ["web", "persistence,auth", "solo"].map(|text| text.parse::<Roles>().expect("roles")) {
        let certificate = authority.issue(id, &roles, NOW).expect("issued");
        let subject = Trust::new(authority.root().clone()).judge(&certificate.der, NOW).expect("believed");
        assert_eq!(subject, Subject { cloud: authority.cloud(), id, roles });
        assert_eq!(subject.spiffe_id(), format!("spiffe://{}/box/{id}", authority.cloud()));
    }
}

#[test]
fn clocks_may_be_off_to_opposite_sides_and_no_further() {
    let authority = found(cloud());
    let certificate = authority.issue(box_id(), &Role::Web.into(), NOW).expect("issued");
    let trust = Trust::new(authority.root().clone());
    let (skew, second) = (CLOCK_SKEW_MAX * 2, Duration::from_secs(1));
    let is_believed = |at| trust.judge(&certificate.der, at).is_ok();
    assert!(is_believed(back(NOW, skew)) && !is_believed(back(NOW, skew + second)));
    let end = certificate.expires_at.plus(skew);
    assert!(is_believed(end) && !is_believed(end.plus(second)));
    assert_eq!(certificate.renew_at(), NOW.plus(CERTIFICATE_LIFE / 2));
}

#[test]
fn two_certificates_of_one_box_differ_in_their_serial() {
    let (authority, id) = (found(cloud()), box_id());
    let [one, other] = [(), ()].map(|()| authority.issue(id, &Role::Web.into(), NOW).expect("issued").der);
    let serial = |der: &Vec<u8>| {
        let der = as_certificate(der);
        webpki::EndEntityCert::try_from(&der).expect("a certificate").serial().to_vec()
    };
    assert_ne!(serial(&one), serial(&other));
}

#[test]
fn another_authority_stands_for_nobody_of_ours() {
    let (ours, theirs, id) = (found(cloud()), found(cloud()), box_id());
    // A rogue founds a cloud of our name: its root has our cloud's, and isn't ours.
    let rogue = found(ours.cloud());
    let trust = Trust::new(ours.root().clone());
    for authority in [&theirs, &rogue] {
        let certificate = authority.issue(id, &Roles::solo(), NOW).expect("issued");
        assert!(matches!(trust.judge(&certificate.der, NOW), Err(Distrust::Chain { .. })));
    }
    assert!(matches!(trust.judge(ours.root().der(), NOW), Err(Distrust::Chain { .. } | Distrust::Name { .. })));
}

/// What an authority whose code is wrong, or another tool that holds its key, might sign: it must not pass either.
#[test]
fn what_a_root_signed_still_has_to_be_in_our_form() {
    let (authority, id) = (found(cloud()), box_id());
    let trust = Trust::new(authority.root().clone());
    let domain = format!("spiffe://{}", authority.cloud());
    let sign = |names: &[String], key: BoxId| {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            names.iter().map(|name| SanType::URI(name.clone().try_into().expect("plain text"))).collect();
        params.not_before = moment(NOW, None).expect("a time");
        params.not_after = moment(NOW.plus(CERTIFICATE_LIFE), None).expect("a time");
        params.signed_by(&BoxKey(key), &authority.issuer).expect("signed").der().to_vec()
    };
    let good = format!("{domain}/box/{id}/web");
    assert!(trust.judge(&sign(std::slice::from_ref(&good), id), NOW).is_ok());
    let foreign = format!("spiffe://{}/box/{id}/web", cloud());
    for names in [
        vec![],
        vec![good.clone(), good.clone()],
        vec![format!("{domain}/box/{id}")],
        vec![format!("{domain}/box/{id}/")],
        vec![format!("{domain}/box/{id}/king")],
        vec![format!("{domain}/box/{id}/web/persistence")],
        vec![format!("{domain}/box/{id}/web/web")],
        vec![format!("{domain}/box/{id}/web/")],
        vec![format!("{domain}/tenant/{id}/web")],
        vec![foreign],
    ] {
        assert!(matches!(trust.judge(&sign(&names, id), NOW), Err(Distrust::Name { .. })), "{names:?}");
    }
    assert!(matches!(trust.judge(&sign(&[good], box_id()), NOW), Err(Distrust::Key { .. })));
}

#[test]
fn an_authority_is_kept_and_read_whole() {
    let authority = found(cloud());
    let bytes = authority.to_bytes();
    let read = Authority::from_bytes(&bytes).expect("read");
    assert_eq!(read.root().fingerprint(), authority.root().fingerprint());
    let certificate = read.issue(box_id(), &Role::Auth.into(), NOW).expect("issued");
    assert!(Trust::new(authority.root().clone()).judge(&certificate.der, NOW).is_ok());

    let mixed = |edit: fn(&mut Kept, Kept)| {
        let mut kept: Kept = serde_json::from_slice(&bytes).expect("JSON");
        let other = serde_json::from_slice(&found(kept.cloud).to_bytes()).expect("JSON");
        edit(&mut kept, other);
        Authority::from_bytes(&serde_json::to_vec(&kept).expect("JSON"))
    };
    assert!(matches!(mixed(|kept, other| kept.key = other.key), Err(AuthorityError::Damaged { .. })));
    assert!(matches!(mixed(|kept, other| kept.root = other.root), Err(AuthorityError::Damaged { .. })));
    assert!(matches!(mixed(|kept, _| kept.cloud = CloudId([0; 16])), Err(AuthorityError::Damaged { .. })));
    assert!(matches!(Authority::from_bytes(&bytes[1..]), Err(AuthorityError::Damaged { .. })));
    assert!(!format!("{authority:?}").contains("key"));
}

#[test]
fn a_trust_rolls_over_and_never_ends_empty() {
    let cloud_id = cloud();
    let (old, new, third, foreign) = (found(cloud_id), found(cloud_id), found(cloud_id), found(cloud()));
    let mut trust = Trust::new(old.root().clone());
    assert_eq!(trust.forget(old.root().fingerprint()), Err(TrustError::Last { fingerprint: old.root().fingerprint() }));
    assert_eq!(trust.add(foreign.root().clone()), Err(TrustError::Root { cloud: cloud_id }));
    trust.add(new.root().clone()).expect("a second root");
    trust.add(new.root().clone()).expect("which is there already");
    assert_eq!(trust.add(third.root().clone()), Err(TrustError::Full { cloud: cloud_id }));

    let text = serde_json::to_string(&trust).expect("JSON");
    let mut trust: Trust = serde_json::from_str(&text).expect("read");
    let [from_old, from_new] =
        [&old, &new].map(|authority| authority.issue(box_id(), &Role::Web.into(), NOW).expect("issued").der);
    assert!(trust.judge(&from_old, NOW).is_ok() && trust.judge(&from_new, NOW).is_ok());
    trust.forget(old.root().fingerprint()).expect("the old one goes");
    assert!(trust.judge(&from_old, NOW).is_err() && trust.judge(&from_new, NOW).is_ok());
    assert_eq!(trust.fingerprints().collect::<Vec<_>>(), [new.root().fingerprint()]);
}

#[test]
fn a_trust_that_was_tampered_with_is_not_read() {
    let (ours, theirs) = (found(cloud()), found(cloud()));
    let root = |authority: &Authority| BASE64.encode(authority.root().der());
    let text = |roots: &[String]| serde_json::json!({ "cloud": ours.cloud(), "roots": roots }).to_string();
    let is_read = |roots: &[String]| serde_json::from_str::<Trust>(&text(roots)).is_ok();
    assert!(is_read(&[root(&ours)]));
    assert!(!is_read(&[]));
    assert!(!is_read(&[root(&theirs)]));
    assert!(!is_read(&[root(&ours), root(&ours), root(&ours)]));
    assert!(!is_read(&["no base64".to_owned()]));
}

#[test]
fn a_clock_beyond_all_calendars_is_told() {
    let authority = found(cloud());
    for now in [Timestamp(u64::MAX), Timestamp(253_402_300_800_000)] {
        let refused = authority.issue(box_id(), &Role::Web.into(), now);
        assert!(matches!(refused, Err(AuthorityError::Time { .. })), "{refused:?}");
    }
}

#[test]
fn any_bytes_are_judged_and_none_of_a_strangers_believed() {
    let authority = found(cloud());
    let trust = Trust::new(authority.root().clone());
    let good = authority.issue(box_id(), &Role::Web.into(), NOW).expect("issued").der;
    let seeds = vec![good.clone(), authority.root().der().to_vec(), Vec::new()];
    crate::fuzzing::fuzz(
        "certificate",
        &crate::fuzzing::mutated(seeds, &["\x30\x00", "\x06\x03\x55\x1d\x11", "/web"]),
        |input| {
            // A change of any byte breaks the signature, or isn't one.
            let is_believed = trust.judge(&input, NOW).is_ok();
            prop_assert!(!is_believed || input.0 == good);
            let _ = Root::of_cloud(authority.cloud(), &input);
            let _ = Authority::from_bytes(&input);
            Ok(())
        },
    );
}
