//! Fuzz target of static paths and of the conditions that come with a request for one.

use std::collections::HashMap;

use proptest::prelude::*;

use super::asked::{names, parse_range};
use super::*;
use crate::fuzzing::{fuzz, mutated, mutated_text};

const PATHS: &[&str] = &[
    "/",
    "/index.html",
    "/about",
    "/about.html",
    "/blog/",
    "/a%20b.txt",
    "/css/site.css",
    "//evil.example",
    "/evil.example",
];
const WORDS: &[&str] = &[
    "/",
    "//",
    "..",
    ".",
    "%2e",
    "%2F",
    "%00",
    "%",
    "%ff",
    "%c3%bc",
    "\\",
    ".html",
    "index.html",
    "\u{fc}",
    "evil.example",
];

#[test]
fn a_path_means_a_file_of_the_folder() {
    let paths = [
        "index.html",
        "about.html",
        "blog/index.html",
        "a b.txt",
        "css/site.css",
        "evil.example/index.html",
        "404.html",
    ];
    let files: HashMap<Box<str>, u8> = paths.iter().map(|path| ((*path).into(), 0)).collect();
    let inputs = (mutated_text(PATHS, WORDS), any::<bool>(), any::<bool>());
    fuzz("static paths", &inputs, |(path, spa, clean_urls)| {
        let folder = StaticFolder { spa, clean_urls, ..StaticFolder::default() };
        match meaning(&files, &folder, &path) {
            Meaning::File(found, _, status) => {
                prop_assert!(files.contains_key(found), "{found:?}");
                prop_assert!(status == StatusCode::OK || status == StatusCode::NOT_FOUND);
            }
            // It is put behind the route's prefix, which may be nothing.
            Meaning::Elsewhere(to) => prop_assert!(to.starts_with('/') && !to.starts_with("//"), "{to:?}"),
            Meaning::Nothing => {}
        }
        Ok(())
    });
}

#[test]
fn a_range_lies_within_the_file_or_nowhere() {
    let seeds = ["bytes=0-4", "bytes=5-", "bytes=-3", "bytes=0-1,3-4", "bytes=18446744073709551615-"];
    let words = &["bytes=", "-", ",", "0", "18446744073709551615", "18446744073709551616", "+", " ", "="];
    fuzz("ranges", &(mutated_text(&seeds, words), prop_oneof![0..20_u64, any::<u64>()]), |(text, size)| {
        if let Some(Ok(range)) = parse_range(&text, size) {
            prop_assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
        }
        Ok(())
    });
}

#[test]
fn a_tag_is_matched_by_itself_alone() {
    let tag = "\"0123456789abcdef0123456789abcdef\"";
    let etag = HeaderValue::from_static("\"0123456789abcdef0123456789abcdef\"");
    let seeds = [tag, "*", "W/\"0123456789abcdef0123456789abcdef\"", "\"other\", \"tags\""]
        .map(|seed| seed.as_bytes().to_vec());
    fuzz("entity tags", &mutated(seeds.to_vec(), &["W/", "\"", ",", " ", "*"]), |wanted| {
        let Ok(held) = HeaderValue::from_bytes(&wanted) else { return Ok(()) };
        let names = names(&held, &etag, true);
        let text = String::from_utf8_lossy(&wanted);
        prop_assert!(!names || text.contains(tag) || text.contains('*'), "{text}");
        Ok(())
    });
}
