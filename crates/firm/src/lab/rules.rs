//! What is cut: rules for nftables on the lab's bridges, written anew from the state at each change.
//!
//! A frame is dropped at the port of who mustn't hear it, by who sent it: on the same segment by its Ethernet address, so
//! that ARP, neighbour discovery and multicast stay away too; from the other segment by its IP address, since the router
//! puts its own Ethernet address on it. Nothing is dropped on the way to others.

use std::fmt::Write as _;

use super::address::{Addresses, Net};
use super::network::SWITCH;
use super::program;
use super::{Lab, LabError};

/// Makes the bridges drop what is cut, and nothing else, in one step.
pub fn apply(lab: &Lab, net: Net) -> Result<(), LabError> {
    let words = program::inside(lab, SWITCH);
    let mut words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    words.extend(["nft", "--file", "-"]);
    program::run("ip", &words, &ruleset(lab, net)).map(drop).map_err(|error| LabError::Rules(missing(error)))
}

/// `ip netns exec` says only that what it was to run is missing.
fn missing(error: program::ProgramError) -> program::ProgramError {
    match error {
        program::ProgramError::Failed { said, .. } if said.contains("exec of \"nft\" failed") => {
            program::not_started("nft", std::io::ErrorKind::NotFound.into())
        }
        other => other,
    }
}

fn ruleset(lab: &Lab, net: Net) -> String {
    // Named first, so that there is one to delete.
    let mut rules = "table bridge lab\ndelete table bridge lab\ntable bridge lab {\n  chain cut {\n    type filter hook forward priority 0; policy accept;\n".to_owned();
    for (from, to) in &lab.cuts {
        let segment = lab.segment_of(*from);
        let Addresses { v4, v6, mac, .. } = Addresses::of(net, segment, *from);
        if segment == lab.segment_of(*to) {
            let _ = writeln!(rules, "    oifname \"{to}\" ether saddr {mac} drop");
        } else {
            let _ = writeln!(rules, "    oifname \"{to}\" ip saddr {v4} drop");
            let _ = writeln!(rules, "    oifname \"{to}\" ip6 saddr {v6} drop");
        }
    }
    rules += "  }\n}\n";
    rules
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use expect_test::expect;

    use super::*;
    use crate::lab::LabBox;
    use crate::lab::address::{Port, Segment};

    #[test]
    fn rules_follow_from_what_is_cut() {
        let one = |segment| LabBox { segment, clone_of: None, process: None, ended: None };
        let lab = Lab {
            id: "0a1b2c".into(),
            net: Some(Net::FIRST),
            rootless: false,
            keeper: None,
            segments: Segment::ALL.into(),
            boxes: BTreeMap::from([(1, one(Segment::A)), (2, one(Segment::A)), (3, one(Segment::B))]),
            cuts: BTreeSet::from([
                (Port::Box(1), Port::Box(2)),
                (Port::Box(3), Port::Box(1)),
                (Port::Host, Port::Box(1)),
            ]),
            slow: Vec::new(),
        };
        expect![[r#"
            table bridge lab
            delete table bridge lab
            table bridge lab {
              chain cut {
                type filter hook forward priority 0; policy accept;
                oifname "b1" ether saddr 02:fb:4d:01:00:fd drop
                oifname "b2" ether saddr 02:fb:4d:01:00:01 drop
                oifname "b1" ip saddr 10.77.2.3 drop
                oifname "b1" ip6 saddr fd77:77:2::3 drop
              }
            }
        "#]]
        .assert_eq(&ruleset(&lab, Net::FIRST));
    }
}
