//! The gate of a private stage: a member's token, or a pass from a share link.
//!
//! What opens the gate is taken off the request before the app sees it. An app that could read a visitor's token
//! could act as them.

use auth::{Pass, Wants, may};
use base::Timestamp;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use state::Grant;

use crate::answer::{Body, Page, redirect};
use crate::cloud::Cloud;
use crate::router::Site;

/// The query parameter of a share link, and the cookie that it becomes.
pub(crate) const PASS: &str = "firm-pass";

/// May this request see the private stage? `Err` is the answer that it gets instead.
pub(crate) fn check<B>(
    site: &Site,
    cloud: &Cloud,
    now: Timestamp,
    request: &Request<B>,
    id: &str,
) -> Result<(), Box<Response<Body>>> {
    let verify = |pass: &str| Pass::verify(&site.key, site.database.id, now, pass);
    if let Some((pass, rest)) = request.uri().query().and_then(take_pass) {
        let answer = match verify(pass) {
            Ok(expires) => enter(request.uri().path(), &rest, pass, expires.since(now).as_secs()),
            Err(_) => None,
        };
        return Err(Box::new(answer.unwrap_or_else(|| closed(id))));
    }
    if cookies(request.headers()).filter_map(|cookie| pass_of(cookie.trim())).any(|pass| verify(pass).is_ok()) {
        return Ok(());
    }
    let caller = cloud.identify(&cloud.record(), now, bearer(request.headers()));
    match caller.and_then(|caller| may(&caller, Wants::Member(site.tenant, Grant::Visit))) {
        Ok(()) => Ok(()),
        Err(_) => Err(Box::new(closed(id))),
    }
}

/// Whatever the reason, a visitor learns only that it is private: not whose it is, nor whether a pass was ever good.
fn closed(id: &str) -> Response<Body> {
    let page = Page {
        status: StatusCode::UNAUTHORIZED,
        said: "This stage is private.",
        help: "Ask for a share link (firm stages share), or send a member's token as a bearer token.",
    };
    let mut answer = page.answer(id);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Firmament stage\""));
    answer
}

/// Turns the link's pass into a cookie, so that the pass doesn't stay in the address bar.
fn enter(path: &str, rest: &str, pass: &str, seconds: u64) -> Option<Response<Body>> {
    // One slash alone in front: `//elsewhere` would be another host, and so it is to browsers with a backslash.
    let path = path.trim_start_matches(['/', '\\']);
    let to = if rest.is_empty() { format!("/{path}") } else { format!("/{path}?{rest}") };
    let mut answer = redirect(StatusCode::SEE_OTHER, &to)?;
    let cookie = format!("__Host-{PASS}={pass}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Lax");
    answer.headers_mut().insert(header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(answer)
}

/// The pass of a query, and the query without it.
pub(crate) fn take_pass(query: &str) -> Option<(&str, String)> {
    let is_pass = |pair: &&str| pair.strip_prefix(PASS).is_some_and(|rest| rest.starts_with('='));
    let pass = query.split('&').find(is_pass)?;
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_pass(pair)).collect();
    Some((&pass[PASS.len() + 1..], rest.join("&")))
}

/// The token of `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Each for itself: what can't be read of one takes no other with it.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(header::COOKIE).iter();
    let cookies = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    cookies.filter_map(|cookie| str::from_utf8(cookie).ok())
}

fn pass_of(cookie: &str) -> Option<&str> {
    cookie.strip_prefix("__Host-")?.strip_prefix(PASS)?.strip_prefix('=')
}

/// Takes the cloud's own tokens and passes off a request that goes to an app: all of them, wherever they stand.
pub(crate) fn strip(headers: &mut HeaderMap) {
    retain(headers, &header::AUTHORIZATION, |value| {
        // Even what the gate couldn't read as a token.
        let token = |part: &[u8]| part.get(..5).is_some_and(|start| start == b"firm_");
        (!value.as_bytes().split(|byte| matches!(byte, b' ' | b'\t' | b',')).any(token)).then(|| value.clone())
    });
    retain(headers, &header::COOKIE, |value| {
        let is_pass = |cookie: &[u8]| {
            let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            name.strip_prefix(b"__Host-").is_some_and(|name| name == PASS.as_bytes())
        };
        let cookies = value.as_bytes().split(|byte| *byte == b';');
        if !cookies.clone().any(is_pass) {
            return Some(value.clone());
        }
        let others: Vec<&[u8]> = cookies.filter(|cookie| !is_pass(cookie)).map(<[u8]>::trim_ascii).collect();
        HeaderValue::from_bytes(&others.join(&b"; "[..])).ok().filter(|value| !value.is_empty())
    });
}

/// Replaces each field of that name by what `kept` makes of it.
fn retain(headers: &mut HeaderMap, name: &header::HeaderName, kept: impl Fn(&HeaderValue) -> Option<HeaderValue>) {
    if !headers.contains_key(name) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(name).iter().filter_map(kept).collect();
    headers.remove(name);
    for value in values {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn an_app_never_sees_what_opened_the_gate() {
        let mut held = headers(&[
            (header::AUTHORIZATION, "bearer firm_0707070707070707_abc"),
            (header::COOKIE, "a=1; __Host-firm-pass=secret; b=2"),
        ]);
        strip(&mut held);
        assert_eq!(held, headers(&[(header::COOKIE, "a=1; b=2")]));
        let mut pass_only = headers(&[(header::COOKIE, "__Host-firm-pass=secret")]);
        strip(&mut pass_only);
        assert!(pass_only.is_empty());
        let mut hidden = headers(&[
            (header::AUTHORIZATION, "Basic eA=="),
            (header::AUTHORIZATION, "Bearer  firm_0707070707070707_abc"),
            (header::COOKIE, "a=1"),
            (header::COOKIE, "__Host-firm-pass =secret;b=2"),
        ]);
        hidden.append(header::COOKIE, HeaderValue::from_bytes(b"c=\xfc; __Host-firm-pass=secret").expect("a value"));
        strip(&mut hidden);
        let mut wanted =
            headers(&[(header::AUTHORIZATION, "Basic eA=="), (header::COOKIE, "a=1"), (header::COOKIE, "b=2")]);
        wanted.append(header::COOKIE, HeaderValue::from_bytes(b"c=\xfc").expect("a value"));
        assert_eq!(hidden, wanted);
    }

    #[test]
    fn an_app_s_own_credentials_stay() {
        let own = headers(&[(header::AUTHORIZATION, "Bearer theirs"), (header::COOKIE, "session=1")]);
        let mut held = own.clone();
        strip(&mut held);
        assert_eq!(held, own);
    }

    #[test]
    fn the_pass_leaves_the_query() {
        assert_eq!(take_pass("a=1&firm-pass=x&b=2"), Some(("x", "a=1&b=2".to_owned())));
        assert_eq!(take_pass("firm-pass=x"), Some(("x", String::new())));
        assert_eq!(take_pass("firm-passer=x"), None);
    }

    #[test]
    fn a_link_never_leads_elsewhere() {
        for path in ["//evil.example/", "/\\evil.example/", "/\\/evil.example/"] {
            let answer = enter(path, "", "x", 1).expect("it can be a header");
            assert_eq!(answer.headers()[header::LOCATION], "/evil.example/", "{path}");
        }
    }
}
