//! The text of the file: what is told of one that is at fault, and what the page says.

use proptest::prelude::*;

use super::super::file::{CloudFileError, Group};
use super::*;

fn refused(text: &str, expected: &Expect) {
    let error = CloudFile::read(text.into(), "cloud.toml").expect_err("it is at fault");
    expected.assert_eq(&error.to_string());
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of them are those that are expected")]
fn all_that_is_misshapen_is_told_at_once() {
    refused(
        r#"clod = "hut"
seeds = ["10.1.0.7", "next door"]
[[boxes]]
role = "web"
[[boxes]]
count = "three"
roles = "web"
[[boxes]]
roles = "web,data"
[[boxes]]
count = 3
[[boxes]]
roles = "web"
count = -1
where = { memory = 4, cpu = 3 }
[[place]]
labels = { rack = 7 }
boxes = "amber-otter"
[tenant.Acme]
[tenant.acme]
limit = "500/s"
[tenant.brew.domains]
shop = "shop"
"#,
        &expect![[r#"
            clod: there is no such key
             --> cloud.toml:1:8
            1 | clod = "hut"
              |        ^^^^^
              help: write one of: cloud, domain, seeds, boxes, place, tenant

            seeds[1]: `next door` is not an address
             --> cloud.toml:2:22
            2 | seeds = ["10.1.0.7", "next door"]
              |                      ^^^^^^^^^^^
              help: write it as in seeds = ["10.1.0.7", "[fd00::7]:7741"]

            boxes[0].role: there is no such key
             --> cloud.toml:4:8
            4 | role = "web"
              |        ^^^^^
              help: write one of: roles, count, names, where, labels, spread

            boxes[1].count: text doesn't belong here
             --> cloud.toml:6:9
            6 | count = "three"
              |         ^^^^^^^
              help: write it as in count = 3

            boxes[2].roles: `web,data` is not a role: persistence, web, auth, several of them with commas, or solo, which is all three
             --> cloud.toml:9:9
            9 | roles = "web,data"
              |         ^^^^^^^^^^
              help: write it as in roles = "web", or persistence, auth, several with commas, or solo

            boxes[3]: it has no `roles`
              --> cloud.toml:10:1
            10 | [[boxes]]
               | ^^^^^^^^^
              help: write it as in roles = "web", or persistence, auth, several with commas, or solo

            boxes[4].count: `-1` is out of range
              --> cloud.toml:14:9
            14 | count = -1
               |         ^^
              help: write it as in count = 3

            place[0].boxes: text doesn't belong here
              --> cloud.toml:18:9
            18 | boxes = "amber-otter"
               |         ^^^^^^^^^^^^^
              help: write it as in boxes = ["amber-otter", "brisk-heron"]

            tenant.Acme: `Acme` is not a name: use 1 to 40 lower-case letters, digits and single hyphens, with a letter or digit at both ends
              --> cloud.toml:19:9
            19 | [tenant.Acme]
               |         ^^^^
              help: write it as in [tenant.acme], and below it limit = { rate = "500/s" }

            tenant.acme.limit: text doesn't belong here
              --> cloud.toml:21:9
            21 | limit = "500/s"
               |         ^^^^^^^
              help: write it as in limit = { rate = "500/s", burst = 1000 }

            tenant.brew.domains.shop: `shop` is not a domain: write a host name such as shop.example, in lower case, without a port or path
              --> cloud.toml:23:8
            23 | shop = "shop"
               |        ^^^^^^
              help: write it as in domains = { "shop.example" = "shop" }

            cloud: it is missing, and says which cloud this is
             --> cloud.toml
              help: write it as in cloud = "hut""#]],
    );
    refused(
        "cloud = \"hut\"\n[boxes]\nroles = \"solo\"\n",
        &expect![[r#"
        boxes: a table stands where a list belongs
         --> cloud.toml:2:2
        2 | [boxes]
          |  ^^^^^
          help: write it as in [[boxes]], and below it roles = "web" and count = 2"#]],
    );
    refused(
        "cloud = \"hut\"\ntenant = \"acme\"\n",
        &expect![[r#"
        tenant: text doesn't belong here
         --> cloud.toml:2:10
        2 | tenant = "acme"
          |          ^^^^^^
          help: write it as in [tenant.acme], and below it limit = { rate = "500/s" }"#]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of them are those that are expected")]
fn what_is_wrong_between_the_keys_is_told() {
    refused(
        r#"cloud = "hut"
domain = "hut"
[[boxes]]
roles = "web"
[[boxes]]
roles = "auth"
count = 2
names = ["amber-otter"]
[[boxes]]
roles = "auth"
names = ["amber-otter"]
where = { cores = 2 }
[[boxes]]
roles = "auth"
count = 0
labels = { tier = "gold" }
[[boxes]]
roles = "auth"
count = 2000
where = { labels = { tier = "gold" }, segment = "" }
spread = "room"
[[place]]
labels = {}
[[place]]
boxes = ["amber-otter"]
labels = { rack = "7" }
[[place]]
boxes = ["amber-otter"]
labels = { rack = "8" }
[tenant.acme]
limit = { rate = "5/s", burst = 0 }
[tenant.acme.domains]
"shop.hut" = "shop"
"shop.example" = "shop"
[tenant.brew.domains]
"shop.example" = "shop"
"#,
        &expect![[r#"
            domain: `hut` is not a domain
             --> cloud.toml:2:10
            2 | domain = "hut"
              |          ^^^^^
              help: write a name such as hut.example, or leave it out

            boxes: no box keeps the cloud's data
             --> cloud.toml:3:3
            3 | [[boxes]]
              |   ^^^^^
              help: add [[boxes]] with roles = "persistence" and count = 3, or roles = "solo" and count = 1

            boxes: 2003 boxes are more than the 1000 of a cloud
             --> cloud.toml:3:3
            3 | [[boxes]]
              |   ^^^^^
              help: count fewer

            boxes[0]: it says neither how many nor which
             --> cloud.toml:3:1
            3 | [[boxes]]
              | ^^^^^^^^^
              help: add count = 3, or names = ["amber-otter"]

            boxes[1]: it says both how many and which
             --> cloud.toml:5:1
            5 | [[boxes]]
              | ^^^^^^^^^
              help: take `count` or `names` out

            boxes[2].where: boxes that are named are not chosen
              --> cloud.toml:12:1
            12 | where = { cores = 2 }
               | ^^^^^
              help: take `where` out, or count boxes rather than name them

            boxes[2].names: amber-otter is named in boxes[1] already
              --> cloud.toml:11:1
            11 | names = ["amber-otter"]
               | ^^^^^
              help: name it once: roles = "persistence,web" gives it several

            boxes[3].count: no box at all
              --> cloud.toml:15:9
            15 | count = 0
               |         ^
              help: write 1 or more, or take the entry out

            boxes[3].labels: boxes[4] chooses by the label tier, so that it can't be given to those who are chosen
              --> cloud.toml:16:1
            16 | labels = { tier = "gold" }
               | ^^^^^^
              help: give it in a [[place]]

            boxes[4].where.labels: no place has the label tier=gold
              --> cloud.toml:20:11
            20 | where = { labels = { tier = "gold" }, segment = "" }
               |           ^^^^^^
              help: say where: [[place]] with labels = { tier = "gold" }

            boxes[4].spread: no place has a label room
              --> cloud.toml:21:10
            21 | spread = "room"
               |          ^^^^^^
              help: say where boxes stand: [[place]] with labels = { room = "7" }; or leave `spread` out

            boxes[4].where.segment: it is no segment's name
              --> cloud.toml:20:49
            20 | where = { labels = { tier = "gold" }, segment = "" }
               |                                                 ^^
              help: write it as `firm boxes` shows it

            place[0]: it has no label
              --> cloud.toml:22:1
            22 | [[place]]
               | ^^^^^^^^^
              help: add labels = { rack = "7" }, or take the place out

            place[0]: nobody stands there
              --> cloud.toml:22:1
            22 | [[place]]
               | ^^^^^^^^^
              help: add segment = "a", or boxes = ["amber-otter"]

            place[2].boxes: amber-otter has rack=8 here and rack=7 in place[1]
              --> cloud.toml:28:1
            28 | boxes = ["amber-otter"]
               | ^^^^^
              help: keep it in one of them

            tenant.acme.limit.burst: a burst of 0 lets nothing through
              --> cloud.toml:31:33
            31 | limit = { rate = "5/s", burst = 0 }
               |                                 ^
              help: write 1 or more, or leave it out

            tenant.acme.domains: shop.hut lies within the cloud's own domain hut
              --> cloud.toml:32:14
            32 | [tenant.acme.domains]
               |              ^^^^^^^
              help: take it out: every app has its name there already

            tenant.brew.domains: shop.example is acme's already
              --> cloud.toml:35:14
            35 | [tenant.brew.domains]
               |              ^^^^^^^
              help: keep it with one of them"#]],
    );
}

#[test]
fn what_is_no_toml_or_no_text_is_told() {
    refused(
        "cloud = \"hut\n",
        &expect![[r#"
        the text in quotes has no end
         --> cloud.toml:1:13
        1 | cloud = "hut
          |             ^
          help: close it with a quote, in the same line"#]],
    );
    let long = format!("{}\ncloud = \"hut\n", "# a word on it\n".repeat(20_000));
    refused(&long, &expect![[r#"cloud.toml is no TOML from line 20002 on: invalid basic string, expected `"`"#]]);
    refused(
        &"#".repeat(base::limits::CLOUD_FILE_BYTES_MAX + 1),
        &expect![[r"
        cloud.toml has 4194305 bytes, and 4194304 are the most
          help: count boxes rather than name them, and add tenants with: firm tenant add"]],
    );
    let error = CloudFile::read(b"cloud = \"hut\"\n# caf\xe9\n".to_vec(), "cloud.toml").expect_err("it is Latin-1");
    assert_eq!(error, CloudFileError::NotText { file: "cloud.toml".to_owned(), line: 2, byte: 0xe9 });
}

proptest! {
    #[test]
    fn no_text_panics(text in "([a-z]{1,5}|boxes|place|tenant|\\[|\\]|\\{|\\}|=|\"|,|\\.|[0-9]|\n| |\u{e9}){0,60}") {
        if let Err(error) = CloudFile::read(text.into_bytes(), "cloud.toml") {
            prop_assert!(error.to_string().contains("cloud.toml"));
        }
    }
}

const PAGE: &str = include_str!("../../../../../../docs/cloud-toml.md");

#[test]
fn the_examples_of_the_page_are_clouds() {
    let examples: Vec<&str> = PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 3);
    let clouds: Vec<CloudFile> = examples.into_iter().map(file).collect();
    let wanted = |file: &CloudFile| file.boxes.iter().map(Group::places).sum::<usize>();
    assert_eq!(clouds.iter().map(wanted).collect::<Vec<_>>(), [6, 3, 197]);
    // The first is the story of the six boxes.
    let plan = planned(&clouds[0], &six(), None);
    assert_eq!(plan.steps.iter().filter(|step| matches!(step, Step::Found { .. } | Step::Join { .. })).count(), 6);
}

#[test]
fn the_page_explains_every_key() {
    fn keys(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
        if let Some(properties) = schema.get("properties").and_then(serde_json::Value::as_object) {
            found.extend(properties.keys().cloned());
        }
        let inner = schema.as_object().into_iter().flat_map(serde_json::Map::values);
        inner.chain(schema.as_array().into_iter().flatten()).for_each(|schema| keys(schema, found));
    }
    let mut found = BTreeSet::new();
    keys(CloudFile::schema().as_value(), &mut found);
    assert!(found.contains("where") && found.contains("burst"), "{found:?}");
    for key in found {
        assert!(
            PAGE.contains(&format!("`{key}`"))
                || PAGE.contains(&format!("`[[{key}]]`"))
                || PAGE.contains(&format!("`[{key}.")),
            "{key}"
        );
    }
}
