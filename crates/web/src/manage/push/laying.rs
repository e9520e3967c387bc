//! Pushes to a cloud of several boxes.

use api::{Chunk, ChunksMissing};
use base::Timestamp;
use http_body_util::BodyExt as _;
use state::{Actor, Grant};
use tokio::task::LocalSet;

use super::*;
use crate::tier::town::{TENANT, Town, name, town};

/// A call on one of the boxes, by its operator.
async fn call(town: &Town, number: usize, path: Vec<(&'static str, String)>, body: Vec<u8>) -> Call {
    let cloud = std::sync::Arc::clone(&town.clouds[number]);
    let token = crate::cloud::mint_token().expect("random bytes");
    let command = Command::TokenCreate {
        id: token.id,
        tenant: None,
        grant: Grant::Operate,
        label: String::new(),
        hash: token.hash,
        expires: None,
        signed: None,
    };
    cloud.propose(Actor::Box, command).await.expect("it is in order");
    let caller = auth::identify(&cloud.record(), Timestamp(1), Some(&token.secret)).expect("it was just made");
    let (caller, tenant) = (Some(caller), Some(TENANT));
    Call { cloud, caller, bearer: None, tenant, path, query: Vec::new(), body: body.into() }
}

/// A push of an app with one file.
fn push(bytes: &[u8]) -> Push {
    let digest = Digest::of(bytes);
    let size = bytes.len() as u64;
    let file = File { digest, size, chunks: vec![Chunk { digest, size }], encodings: BTreeMap::new() };
    let statics = BTreeMap::from([(name("site"), BTreeMap::from([("a.txt".to_owned(), file)]))]);
    let text = "[static.site]\ndir = \"public\"\n\n[[route]]\npath = \"/\"\nstatic = \"site\"\n";
    let manifest = state::manifest::parse(text, "firm.toml").expect("it is in order");
    Push { stage: None, manifest, index: Index { statics, components: BTreeMap::new() }, source: None }
}

async fn pushed(town: &Town, number: usize, bytes: &[u8]) -> Result<Deployed, Refusal> {
    let body = serde_json::to_vec(&push(bytes)).expect("JSON");
    let call = call(town, number, vec![("app", "shop".to_owned())], body).await;
    let answer = LocalSet::new().run_until(release_create(call)).await?;
    let body = answer.into_body().collect().await.expect("it is in memory").to_bytes();
    Ok(serde_json::from_slice(&body).expect("it is one"))
}

async fn missing(town: &Town, number: usize, bytes: &[u8]) -> Vec<Digest> {
    let body = serde_json::to_vec(&ChunksAsked { chunks: vec![Digest::of(bytes)] }).expect("JSON");
    let call = call(town, number, Vec::new(), body).await;
    let answer = chunks_missing(call).await.expect("it is answered");
    let body = answer.into_body().collect().await.expect("it is in memory").to_bytes();
    let ChunksMissing { missing } = serde_json::from_slice(&body).expect("it is one");
    missing
}

async fn told(refusal: Refusal) -> (StatusCode, String) {
    let answer = refusal.answer("7");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("it is in memory").to_bytes();
    let problem: api::Problem = serde_json::from_slice(&body).expect("it is one");
    (status, problem.code)
}

/// Before chunks were laid on the persistence tier, what was pushed to a box that serves was gone with it.
#[tokio::test]
async fn a_release_outlives_the_box_that_it_was_pushed_to() {
    let town = town(&["persistence", "persistence", "persistence", "web", "auth"]).await;
    for number in 0..5 {
        let bytes = format!("pushed to box {number}").into_bytes();
        assert_eq!(missing(&town, number, &bytes).await, [Digest::of(&bytes)]);
        town.upload(number, &bytes);
        pushed(&town, number, &bytes).await.expect("it is pushed");
        let record = town.clouds[number].record();
        let content = record.app(TENANT, "shop").and_then(|app| app.running("live")).expect("it runs").content;
        for digest in [content, Digest::of(&bytes)] {
            assert_eq!(town.holding(digest), [0, 1, 2], "pushed to {number}");
        }
    }
}

#[tokio::test]
async fn without_a_majority_of_holders_a_push_is_refused_and_changes_nothing() {
    let town = town(&["persistence", "persistence", "persistence", "web"]).await;
    town.upload(3, b"a file");
    town.cut(0);
    town.cut(2);
    let refusal = pushed(&town, 3, b"a file").await.expect_err("two boxes are away");
    assert_eq!(told(refusal).await, (StatusCode::SERVICE_UNAVAILABLE, "tier_unreachable".to_owned()));
    assert!(town.clouds[3].record().app(TENANT, "shop").is_none());
    town.mend(2);
    assert!(!pushed(&town, 3, b"a file").await.expect("two of three are there").unchanged);
}

#[tokio::test]
async fn what_was_uploaded_to_another_box_is_not_asked_for_again() {
    let town = town(&["persistence", "persistence", "persistence", "web", "web"]).await;
    town.upload(3, b"a file");
    pushed(&town, 3, b"a file").await.expect("it is pushed");
    town.cut(3);
    assert!(missing(&town, 4, b"a file").await.is_empty());
    pushed(&town, 4, b"a file").await.expect("the tier has it");
    // But what nobody has is, and what is of another length than the index says is refused.
    let refusal = pushed(&town, 4, b"another").await.expect_err("nobody has it");
    assert_eq!(told(refusal).await, (StatusCode::CONFLICT, "chunks_missing".to_owned()));
    let mut lie = push(b"a file");
    for file in lie.index.statics.values_mut().flat_map(BTreeMap::values_mut) {
        (file.size, file.chunks[0].size) = (7, 7);
    }
    let call = call(&town, 4, vec![("app", "shop".to_owned())], serde_json::to_vec(&lie).expect("JSON")).await;
    let refusal = LocalSet::new().run_until(release_create(call)).await.err().expect("it has six");
    assert_eq!(told(refusal).await, (StatusCode::BAD_REQUEST, "wrong_index".to_owned()));
}
