//! A push: chunks first, then the release that names them.
//!
//! Nothing is half deployed. Until the last step, one command to the record, a push has only laid chunks and
//! artifacts where nothing points at them; the sweep takes what was left behind.

mod weigh;

use std::collections::{BTreeMap, BTreeSet};

use api::{ChunksAsked, ChunksMissing, Deployed, Encoded, Encoding, File, Index, Push};
use base::limits::{
    ASSET_PATH_BYTES_MAX, CHUNK_BYTES_MAX, COMPONENT_BYTES_MAX, ENCODED_FILE_BYTES_MAX, FILE_BYTES_MAX,
    MANIFEST_BYTES_MAX, MISSING_DIGESTS_MAX, RELEASE_BYTES_MAX, RELEASE_FILES_MAX,
};
use base::{Digest, Name, TenantId, chain};
use bytes::Bytes;
use http::StatusCode;
use persist::chunks::{PutError, SettleError};
use sandbox::{CompileError, Compiled, Need, need};
use state::manifest::Fault;
use state::{Command, Manifest};

use super::apps::{deployed, live};
use super::{Answer, Call, Refusal, blocking, detached, done, json, read_json};
use crate::assets;
use crate::cloud::Cloud;
use crate::tier::LayError;

pub(crate) async fn chunks_missing(call: Call) -> Answer {
    let body = call.body.clone();
    let ChunksAsked { chunks } = blocking(move || read_json(&body)).await??;
    if chunks.len() > MISSING_DIGESTS_MAX {
        return Err(Refusal::bad("too_many", format!("{MISSING_DIGESTS_MAX} digests are the most of one question")));
    }
    let held = call.cloud.chunks.held(call.tenant(), chunks.clone()).await;
    let held = held.map_err(|error| Refusal::failed(error.into()))?;
    let missing = chunks.into_iter().filter(|digest| !held.contains_key(digest)).collect();
    json(&ChunksMissing { missing })
}

pub(crate) async fn chunk_put(call: Call) -> Answer {
    let digest: Digest = call.param("digest")?;
    let (store, tenant, bytes) = (call.cloud.store.chunks.clone(), call.tenant(), call.body.clone());
    blocking(move || store.put(tenant, digest, &bytes)).await?.map_err(|error| unstored(&error))?;
    done()
}

pub(crate) async fn release_create(call: Call) -> Answer {
    let (app, body): (Name, Bytes) = (call.param("app")?, call.body.clone());
    // It may take longer than the core's others should wait.
    let read = blocking(move || {
        weigh::manifest(&body)?;
        let push: Push = read_json(&body)?;
        check(&push)?;
        Ok::<_, Refusal>(push)
    });
    let push = read.await??;
    let deployed = detached(call, async move |call| release(call, app, push).await).await?;
    json(&deployed)
}

async fn release(call: &Call, app: Name, push: Push) -> Result<Deployed, Refusal> {
    let Push { stage, manifest, index, source } = push;
    let (cloud, tenant) = (&call.cloud, call.tenant());
    let digests = uploaded(cloud, tenant, &index).await?;
    compile(cloud, tenant, &manifest, &index).await?;
    let content = settle(cloud, tenant, &index, digests).await?;
    let stage = stage.unwrap_or_else(live);
    let command = Command::ReleaseCreate {
        tenant,
        app: app.clone(),
        stage: stage.clone(),
        content,
        manifest: Box::new(manifest),
        source,
    };
    let applied = call.propose(command).await?;
    let deployed = deployed(call, &app, &stage, applied.release)?;
    // A new release changes the app, whose routes follow; nothing follows where the stage runs the same already.
    Ok(Deployed { unchanged: applied.events.is_empty(), ..deployed })
}

/// What can be seen from the push itself.
fn check(push: &Push) -> Result<(), Refusal> {
    let manifest_bytes = serde_json::to_vec(&push.manifest).map_err(|error| Refusal::failed(error.into()))?.len();
    if manifest_bytes > MANIFEST_BYTES_MAX {
        // The record holds it for as long as the release is remembered, in memory and on every box.
        return Err(weigh::too_heavy(format!(
            "the manifest has {manifest_bytes} bytes as JSON, more than {MANIFEST_BYTES_MAX}"
        )));
    }
    let faults = push.manifest.faults();
    if !faults.is_empty() {
        return Err(Refusal::manifest(faults));
    }
    same_names("static folder", push.manifest.statics.keys(), push.index.statics.keys())?;
    same_names("component", push.manifest.components.keys(), push.index.components.keys())?;
    let files = push.index.files().count();
    if files > RELEASE_FILES_MAX {
        return Err(Refusal::bad(
            "too_many_files",
            format!("{files} files are more than the {RELEASE_FILES_MAX} of a release"),
        ));
    }
    let mut bytes = 0_u64;
    for (path, file) in push.index.statics.values().flatten() {
        check_path(path)?;
        bytes = bytes.saturating_add(check_file(path, file, FILE_BYTES_MAX)?);
    }
    for (name, file) in &push.index.components {
        if !file.encodings.is_empty() {
            return Err(Refusal::bad("wrong_index", format!("component {name} has encodings, and nobody is sent it")));
        }
        bytes = bytes.saturating_add(check_file(name.as_str(), file, COMPONENT_BYTES_MAX)?);
    }
    if bytes > RELEASE_BYTES_MAX {
        return Err(Refusal::bad(
            "too_large",
            format!("{bytes} bytes are more than the {RELEASE_BYTES_MAX} of a release"),
        ));
    }
    Ok(())
}

fn same_names<'a>(
    what: &str,
    manifest: impl Iterator<Item = &'a Name>,
    index: impl Iterator<Item = &'a Name>,
) -> Result<(), Refusal> {
    let (manifest, index): (BTreeSet<_>, BTreeSet<_>) = (manifest.collect(), index.collect());
    match manifest.symmetric_difference(&index).next() {
        None => Ok(()),
        Some(name) if manifest.contains(name) => {
            Err(Refusal::bad("wrong_index", format!("the index lacks the manifest's {what} {name}")))
        }
        Some(name) => {
            Err(Refusal::bad("wrong_index", format!("the index has a {what} {name} that the manifest doesn't")))
        }
    }
}

/// A path below a static folder. It is only ever a map's key, but what can't be asked for has no business there.
fn check_path(path: &str) -> Result<(), Refusal> {
    let shown: String = path.escape_debug().take(120).collect();
    let wrong = path.is_empty()
        || path.len() > ASSET_PATH_BYTES_MAX
        || path.contains(|ch: char| ch == '\\' || ch.is_control())
        || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if wrong {
        Err(Refusal::bad("wrong_path", format!("`{shown}` is not a path below a static folder")))
    } else {
        Ok(())
    }
}

fn check_file(name: &str, file: &File, max: u64) -> Result<u64, Refusal> {
    let shown: String = name.chars().take(120).collect();
    if file.size > max {
        return Err(Refusal::bad("too_large", format!("{shown} has {} bytes, more than {max}", file.size)));
    }
    let summed = file.chunks.iter().try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.size));
    let chunk_sizes = file.chunks.iter().all(|chunk| (1..=CHUNK_BYTES_MAX as u64).contains(&chunk.size));
    // A file of one chunk is cached under its digest, so the two must be one.
    let named = file.chunks.len() != 1 || file.chunks[0].digest == file.digest;
    if summed != Some(file.size) || !chunk_sizes || !named {
        return Err(Refusal::bad("wrong_index", format!("the chunks of {shown} don't make up the file")));
    }
    let mut bytes = file.size;
    for (encoding, encoded) in &file.encodings {
        check_encoded(&shown, file, *encoding, encoded)?;
        bytes = bytes.saturating_add(encoded.size);
    }
    Ok(bytes)
}

/// What can be known of an encoding without decoding it: a tenant that pushes other bytes deceives its own visitors.
fn check_encoded(shown: &str, file: &File, encoding: Encoding, encoded: &Encoded) -> Result<(), Refusal> {
    let wrong = |why: &str| {
        let encoding = encoding.as_str();
        Err(Refusal::bad("wrong_index", format!("the {encoding} encoding of {shown} {why}")))
    };
    if file.size > ENCODED_FILE_BYTES_MAX {
        return wrong(&format!("is of a file of more than {ENCODED_FILE_BYTES_MAX} bytes"));
    }
    if encoded.size >= file.size || encoded.size == 0 {
        return wrong("is not smaller than the file, or empty");
    }
    let whole =
        File { digest: encoded.digest, size: encoded.size, chunks: encoded.pieces(), encodings: BTreeMap::new() };
    if check_file(shown, &whole, ENCODED_FILE_BYTES_MAX).is_err() {
        return wrong("isn't made up by its chunks");
    }
    Ok(())
}

/// Every chunk is here, or on the persistence tier, with the size that the index says. Gives each digest once.
async fn uploaded(cloud: &Cloud, tenant: TenantId, index: &Index) -> Result<Vec<Digest>, Refusal> {
    let mut chunks = BTreeMap::new();
    for chunk in index.chunks() {
        let size = *chunks.entry(chunk.digest).or_insert(chunk.size);
        if size != chunk.size {
            let said = format!(
                "chunk {} has {size} bytes in one place of the index and {} in another",
                chunk.digest, chunk.size
            );
            return Err(Refusal::bad("wrong_index", said));
        }
    }
    let digests: Vec<Digest> = chunks.keys().copied().collect();
    let held = cloud.chunks.held(tenant, digests.clone()).await.map_err(|error| Refusal::failed(error.into()))?;
    let mut missing = digests.iter().filter(|digest| !held.contains_key(digest));
    if let Some(first) = missing.next() {
        return Err(not_uploaded(1 + missing.count(), *first));
    }
    for (digest, size) in &chunks {
        if held[digest] != *size {
            let said = format!("chunk {digest} has {} bytes, not {size}", held[digest]);
            return Err(Refusal::bad("wrong_index", said));
        }
    }
    Ok(digests)
}

fn not_uploaded(count: usize, first: Digest) -> Refusal {
    let said = format!("{count} chunks are not uploaded, {first} first");
    Refusal::new(StatusCode::CONFLICT, "chunks_missing", said).help("ask /chunks/missing, upload, and push again")
}

/// Compiles every component in the compile process, and refuses imports that nobody granted.
async fn compile(cloud: &Cloud, tenant: TenantId, manifest: &Manifest, index: &Index) -> Result<(), Refusal> {
    for (name, file) in &index.components {
        let wasm = assets::whole(&cloud.chunks, tenant, file).await.map_err(|error| Refusal::failed(error.into()))?;
        if Digest::of(&wasm) != file.digest {
            return Err(Refusal::bad("wrong_index", format!("component {name} is not the file that its digest names")));
        }
        let compiled = cloud.sandbox.compile(tenant, &wasm).await.map_err(|error| uncompiled(name, error))?;
        let faults = ungranted(name, manifest, &compiled);
        if !faults.is_empty() {
            return Err(Refusal::manifest(faults));
        }
    }
    Ok(())
}

/// Imports that work only with a line in the manifest that isn't there.
fn ungranted(name: &Name, manifest: &Manifest, compiled: &Compiled) -> Vec<Fault> {
    let fault = |import: &String| match need(import) {
        Need::KeyValue if manifest.bindings.kv.is_empty() => Some(Fault {
            at: "bindings.kv".to_owned(),
            said: format!("component {name} imports `{import}`, and no bucket is bound"),
            help: "add `kv = [\"BUCKET\"]` under [bindings], with the names that it opens".to_owned(),
        }),
        Need::Unknown => Some(Fault {
            at: format!("components.{name}"),
            said: format!("it imports `{import}`, which this cloud doesn't have"),
            help: "build it without".to_owned(),
        }),
        Need::Always | Need::KeyValue | Need::Config | Need::OutgoingHttp => None,
    };
    let mut faults: Vec<Fault> = compiled.imports.iter().filter_map(fault).collect();
    // One line in the manifest mends all imports of buckets, which stand together.
    faults.dedup_by(|later, first| later.at == first.at && later.help == first.help && first.at == "bindings.kv");
    faults
}

fn uncompiled(name: &Name, error: CompileError) -> Refusal {
    match error {
        CompileError::Busy => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
        CompileError::Start(_) | CompileError::Store(_) => Refusal::failed(error.into()),
        error => {
            let help = match &error {
                CompileError::UnknownImport { .. } => Some(
                    "build it without: a component may import wasi:cli, clocks, config, http, io, keyvalue and random",
                ),
                CompileError::Invalid(_) => Some("build it anew: the file may have been cut or changed since"),
                _ => None,
            };
            let refusal = Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "wrong_component",
                format!("component {name}: {}", chain(&error)),
            );
            match help {
                Some(help) => refusal.help(help),
                None => refusal,
            }
        }
    }
}

/// Stores the index and makes all that the release names durable: here, or where the cloud is made of boxes on its
/// persistence tier.
async fn settle(cloud: &Cloud, tenant: TenantId, index: &Index, mut digests: Vec<Digest>) -> Result<Digest, Refusal> {
    let bytes = Bytes::from(serde_json::to_vec(index).map_err(|error| Refusal::failed(error.into()))?);
    if bytes.len() > CHUNK_BYTES_MAX {
        let said = format!(
            "the release's index has {} bytes, more than {CHUNK_BYTES_MAX}: too many files, or too long paths",
            bytes.len()
        );
        return Err(Refusal::bad("too_many_files", said));
    }
    let content = Digest::of(&bytes);
    digests.push(content);
    let store = cloud.store.chunks.clone();
    blocking(move || store.put(tenant, content, &bytes)).await?.map_err(|error| unstored(&error))?;
    cloud.chunks.lay(tenant, digests).await.map_err(unlaid)?;
    Ok(content)
}

fn unlaid(error: LayError) -> Refusal {
    match error {
        LayError::Here(SettleError::Full { .. }) => Refusal::disk_full(),
        LayError::Source { digest, source } if source.is_missing() => not_uploaded(1, digest),
        LayError::TooFew { full: true, .. } => {
            let said = format!("{error}; nothing was changed");
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", said)
                .help("an operator must make room on the persistence boxes; then try again")
        }
        LayError::TooFew { .. } | LayError::NoHolders => {
            let said = format!("{error}; nothing was changed");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "tier_unreachable", said)
                .help("try again when they are back: `firm status` shows which are missing")
        }
        LayError::Here(_) | LayError::Source { .. } | LayError::Gone => Refusal::failed(error.into()),
    }
}

fn unstored(error: &PutError) -> Refusal {
    match error {
        PutError::TooLarge { .. } | PutError::Mismatch { .. } => Refusal::bad("wrong_chunk", chain(error)),
        PutError::Full { .. } | PutError::NoRoom => Refusal::disk_full(),
        PutError::Write { .. } => Refusal::failed(chain(error).into()),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod laying;

#[cfg(test)]
mod tests {
    use api::Chunk;

    use super::*;

    fn file(sizes: &[u64]) -> File {
        let chunks: Vec<_> =
            sizes.iter().map(|size| Chunk { digest: Digest::of(&size.to_be_bytes()), size: *size }).collect();
        let digest = chunks.first().map_or(Digest::of(b""), |chunk| chunk.digest);
        File {
            digest,
            size: sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)),
            chunks,
            encodings: BTreeMap::new(),
        }
    }

    #[test]
    fn files_are_the_sum_of_their_chunks() {
        assert!(check_file("a", &file(&[3, 4]), 10).is_ok());
        assert!(check_file("a", &file(&[]), 10).is_ok());
        assert!(check_file("a", &File { size: 8, ..file(&[3, 4]) }, 10).is_err());
        assert!(check_file("a", &file(&[30]), 10).is_err());
        assert!(check_file("a", &file(&[u64::MAX, 2]), u64::MAX).is_err());
        assert!(check_file("a", &File { digest: Digest::of(b"another"), ..file(&[3]) }, 10).is_err());
    }

    #[test]
    fn paths_stay_below_their_folder() {
        for path in ["a", "a/b.txt", "ü/ß", ".well-known/x"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in
            ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "a\0", "a\nb", "a\x1b[2J", &"a".repeat(2_000)]
        {
            assert!(check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_import_nobody_granted_names_the_line_to_add() {
        let compiled = Compiled {
            component: Digest::of(b""),
            imports: vec![
                "wasi:keyvalue/store@0.2.0-draft2".to_owned(),
                "wasi:nn/graph@0.2.0".to_owned(),
                "wasi:cli/stdout@0.2.0".to_owned(),
            ],
            flavour: sandbox::Flavour::Http02,
        };
        let name: Name = "app".parse().expect("a name");
        let faults = ungranted(&name, &Manifest::default(), &compiled);
        let places: Vec<_> = faults.iter().map(|fault| fault.at.as_str()).collect();
        assert_eq!(places, ["bindings.kv", "components.app"]);
        let mut granted = Manifest::default();
        granted.bindings.kv.insert(name.clone());
        assert_eq!(ungranted(&name, &granted, &compiled).len(), 1);
    }
}
