//! Which file a path means.

use std::collections::HashMap;

use base::limits::ASSET_PATH_BYTES_MAX;
use http::StatusCode;
use percent_encoding::percent_decode_str;
use state::manifest::StaticFolder;

/// What a path means in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'f, T> {
    /// This file, with this status.
    File(&'f str, &'f T, StatusCode),
    /// The same thing has a better address: the path as it was asked for, with this in place of its end.
    Elsewhere(String),
    Nothing,
}

/// Finds the file of `below`, the part of the path after the route's prefix, still percent-encoded.
pub(super) fn meaning<'f, T>(files: &'f HashMap<Box<str>, T>, folder: &StaticFolder, below: &str) -> Meaning<'f, T> {
    // A path that isn't UTF-8, or that climbs, can't be in the index; the look-up is a map's, never the disk's.
    let Ok(decoded) = percent_decode_str(below).decode_utf8() else { return Meaning::Nothing };
    let path = decoded.trim_start_matches('/');
    let raw = below.trim_start_matches('/');
    let elsewhere = |end: &str, slash: &str| Meaning::Elsewhere(format!("/{end}{slash}"));
    let ok = |(path, file): (&'f str, &'f T)| Meaning::File(path, file, StatusCode::OK);
    if let Some(found) = held(files, path) {
        // Written as it is, that is: another spelling of the end would be sent to itself for ever.
        if folder.clean_urls
            && let Some(start) = raw.strip_suffix(".html")
        {
            if path == "index.html" || path.ends_with("/index.html") {
                if let Some(start) = raw.strip_suffix("index.html") {
                    return elsewhere(start, "");
                }
            } else if let Some(stem) = path.strip_suffix(".html")
                && held(files, stem).is_none()
                && joined(files, stem, "/index.html").is_none()
            {
                return elsewhere(start, "");
            }
        }
        return ok(found);
    }
    if path.is_empty() || path.ends_with('/') {
        if let Some(found) = joined(files, path, "index.html") {
            return ok(found);
        }
        let page = path.trim_end_matches('/');
        if folder.clean_urls && raw.ends_with('/') && !page.is_empty() && joined(files, page, ".html").is_some() {
            return elsewhere(raw.trim_end_matches('/'), "");
        }
    } else {
        if folder.clean_urls
            && let Some(found) = joined(files, path, ".html")
        {
            return ok(found);
        }
        if joined(files, path, "/index.html").is_some() {
            return elsewhere(raw, "/");
        }
    }
    if folder.spa
        && let Some(found) = held(files, "index.html")
    {
        return ok(found);
    }
    match held(files, folder.not_found.as_deref().unwrap_or("404.html")) {
        Some((path, file)) => Meaning::File(path, file, StatusCode::NOT_FOUND),
        None => Meaning::Nothing,
    }
}

fn held<'f, T>(files: &'f HashMap<Box<str>, T>, path: &str) -> Option<(&'f str, &'f T)> {
    files.get_key_value(path).map(|(path, file)| (&**path, file))
}

/// The file whose path is `start` and then `end`. Put together on the stack: this is asked of most pages.
fn joined<'f, T>(files: &'f HashMap<Box<str>, T>, start: &str, end: &str) -> Option<(&'f str, &'f T)> {
    let mut buffer = [0; ASSET_PATH_BYTES_MAX];
    // No path of the index is longer than the buffer.
    let path = buffer.get_mut(..start.len() + end.len())?;
    path[..start.len()].copy_from_slice(start.as_bytes());
    path[start.len()..].copy_from_slice(end.as_bytes());
    held(files, str::from_utf8(path).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(spa: bool) -> StaticFolder {
        StaticFolder { spa, ..StaticFolder::default() }
    }

    fn files(paths: &[&str]) -> HashMap<Box<str>, u8> {
        paths.iter().map(|path| ((*path).into(), 0)).collect()
    }

    fn check(path: &str, wanted: &Meaning<'_, u8>) {
        let files = files(&["index.html", "about.html", "blog/index.html", "a b.txt", "css/site.css", "404.html"]);
        assert_eq!(meaning(&files, &folder(false), path), *wanted, "{path}");
    }

    #[test]
    fn paths_mean_what_people_expect() {
        let ok = |path: &'static str| Meaning::File(path, &0, StatusCode::OK);
        let elsewhere = |path: &str| Meaning::Elsewhere(path.to_owned());
        check("/", &ok("index.html"));
        check("", &ok("index.html"));
        check("/index.html", &elsewhere("/"));
        check("/about", &ok("about.html"));
        check("/about.html", &elsewhere("/about"));
        check("/about/", &elsewhere("/about"));
        check("/blog", &elsewhere("/blog/"));
        check("/blog/", &ok("blog/index.html"));
        check("/blog/index.html", &elsewhere("/blog/"));
        check("/a%20b.txt", &ok("a b.txt"));
        check("/css/site.css", &ok("css/site.css"));
    }

    #[test]
    fn no_spelling_is_sent_to_itself() {
        let ok = |path: &'static str| Meaning::File(path, &0, StatusCode::OK);
        check("/about%2ehtml", &ok("about.html"));
        check("/index%2ehtml", &ok("index.html"));
        check("/%69ndex.html", &ok("index.html"));
        check("/about%2f", &Meaning::File("404.html", &0, StatusCode::NOT_FOUND));
    }

    #[test]
    fn what_isn_t_there_is_not_found_whatever_it_climbs() {
        let long = format!("/{}", "a".repeat(5_000));
        for path in
            ["/nothing", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/css/..%2findex.html", "/%00", "/css", &long]
        {
            check(path, &Meaning::File("404.html", &0, StatusCode::NOT_FOUND));
        }
        check("/%ff", &Meaning::Nothing);
    }

    #[test]
    fn a_single_page_app_answers_every_path() {
        let wanted = Meaning::File("index.html", &0, StatusCode::OK);
        assert_eq!(meaning(&files(&["index.html", "404.html"]), &folder(true), "/deep/link"), wanted);
    }

    #[test]
    fn a_redirect_never_leaves_the_site() {
        let files = files(&["evil.example/index.html", "index.html"]);
        for path in ["//evil.example", "//index.html", "/\\evil.example"] {
            if let Meaning::Elsewhere(to) = meaning(&files, &folder(false), path) {
                assert!(to.starts_with('/') && !to.starts_with("//"), "{path} → {to}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_or_finds_what_isn_t_there(path in "[/.%a-z0-9]{0,40}") {
            let files = files(&["index.html", "a/index.html", "b.html"]);
            if let Meaning::File(found, ..) = meaning(&files, &folder(true), &path) {
                prop_assert!(files.contains_key(found));
            }
        }
    }
}
