//! The inside of the compile process.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use base::limits::COMPONENT_BYTES_MAX;
use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::{Flavour, confine};
use crate::need::{Need, need};
use crate::{engine, program};

/// What a component turned out to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) imports: Vec<String>,
    pub(super) flavour: Flavour,
    /// Length of the artifact that follows.
    pub(super) bytes: u64,
}

/// Why it wasn't compiled.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Refused {
    CoreModule,
    Invalid(String),
    NoHttpExport(Vec<String>),
    UnknownImport(String),
    Mismatch(String),
    Broken(String),
}

/// Bytes of a sentence that quotes a component.
const REASON_BYTES_MAX: usize = 2_000;

/// The main of the compile process: confines itself, reads wasm from stdin, compiles it, writes the answer to
/// stdout. Call it first thing, before a second thread exists.
#[must_use]
pub fn compile_process() -> ExitCode {
    let answer = confine::confine().map_err(|error| Refused::Broken(base::chain(&error))).and_then(|()| {
        let mut wasm = Vec::new();
        let bound = COMPONENT_BYTES_MAX + 1;
        io::stdin().lock().take(bound).read_to_end(&mut wasm).map_err(|error| Refused::Broken(error.to_string()))?;
        compile(&wasm)
    });
    match write(&answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn write(answer: &Result<(Found, Vec<u8>), Refused>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let (line, artifact): (Result<&Found, &Refused>, &[u8]) = match answer {
        Ok((found, artifact)) => (Ok(found), artifact),
        Err(refused) => (Err(refused), &[]),
    };
    serde_json::to_writer(&mut stdout, &line)?;
    stdout.write_all(b"\n")?;
    stdout.write_all(artifact)?;
    stdout.flush()
}

fn compile(wasm: &[u8]) -> Result<(Found, Vec<u8>), Refused> {
    // Byte 6 tells components (1) from modules (0).
    if wasm.get(..8).is_some_and(|head| head[6] == 0) {
        return Err(Refused::CoreModule);
    }
    let engine = engine::compiler().map_err(|error| Refused::Broken(reason(&error)))?;
    let component = Component::from_binary(&engine, wasm).map_err(|error| Refused::Invalid(reason(&error)))?;
    let mut found = look(&engine, &component)?;
    let linker = engine::linker(&engine).map_err(|error| Refused::Broken(reason(&error)))?;
    program::link(&linker, &component, found.flavour).map_err(|error| Refused::Mismatch(reason(&error)))?;
    let artifact = component.serialize().map_err(|error| Refused::Broken(reason(&error)))?;
    found.bytes = artifact.len() as u64;
    Ok((found, artifact))
}

fn look(engine: &Engine, component: &Component) -> Result<Found, Refused> {
    let shape = component.component_type();
    let mut imports: Vec<String> = shape.imports(engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort_unstable();
    if let Some(unknown) = imports.iter().find(|name| need(name) == Need::Unknown) {
        return Err(Refused::UnknownImport(cut(unknown)));
    }
    let exports: Vec<&str> = shape.exports(engine).map(|(name, _)| name).collect();
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    // A component that has both speaks the newer one.
    let flavour = if has("wasi:http/handler@0.3.") {
        Flavour::Http03
    } else if has("wasi:http/incoming-handler@0.2.") {
        Flavour::Http02
    } else {
        return Err(Refused::NoHttpExport(exports.iter().take(20).map(|name| cut(name)).collect()));
    };
    Ok(Found { imports, flavour, bytes: 0 })
}

fn reason(error: &wasmtime::Error) -> String {
    cut(&format!("{error:#}"))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}
