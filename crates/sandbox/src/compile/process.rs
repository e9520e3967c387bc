//! The inside of the compile process.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use base::limits::COMPONENT_BYTES_MAX;
use serde::{Deserialize, Serialize};
use wasmparser::Payload;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::rewrite::{FirstContent, PAGE_BYTES, Rewritten, rewrite};
use super::{Flavour, confine};
use crate::memory::ContentAt;
use crate::need::{Need, need};
use crate::{engine, program};

/// What a component turned out to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) imports: Vec<String>,
    pub(super) flavour: Flavour,
    /// What the component's memories hold at first, in what follows.
    pub(super) contents: Vec<ContentAt>,
    /// Length of what follows: native code, and behind it the contents.
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

/// How much the compiler stands back for the cores that serve: as far as it goes without standing still.
const NICE: i32 = 10;

/// Bytes of a sentence that quotes a component.
const REASON_BYTES_MAX: usize = 2_000;

/// The main of the compile process: confines itself, reads wasm from stdin, compiles it, writes the answer to
/// stdout. Call it first thing, before a second thread exists.
#[must_use]
pub fn compile_process() -> ExitCode {
    // Visitors' requests come first. It may be refused, and then it is as it was.
    let _ = rustix::process::nice(NICE);
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
    let exports = exports(wasm)?;
    let flavour = flavour(&exports);
    // What is wrong with the component itself is worth more to its author than what it doesn't export.
    let engine =
        engine::compiler(flavour.unwrap_or(Flavour::Http03)).map_err(|error| Refused::Broken(reason(&error)))?;
    let compiled =
        |wasm: &[u8]| Component::from_binary(&engine, wasm).map_err(|error| Refused::Invalid(reason(&error)));
    // What is wrong with it is told of the component that its author knows.
    let (component, contents) = match rewrite(wasm) {
        Ok(Rewritten { wasm: rewritten, contents }) => {
            (compiled(&rewritten).or_else(|refused| compiled(wasm).and(Err(refused)))?, contents)
        }
        Err(error) => compiled(wasm).and(Err(Refused::Broken(format!("it can't be rewritten: {error}"))))?,
    };
    let imports = imports(&engine, &component)?;
    let flavour =
        flavour.ok_or_else(|| Refused::NoHttpExport(exports.iter().take(20).map(|name| cut(name)).collect()))?;
    let linker = engine::linker(&engine, flavour).map_err(|error| Refused::Broken(reason(&error)))?;
    program::link(&linker, &component, flavour).map_err(|error| Refused::Mismatch(reason(&error)))?;
    let mut artifact = component.serialize().map_err(|error| Refused::Broken(reason(&error)))?;
    let contents = lay_behind(&mut artifact, contents);
    Ok((Found { imports, flavour, contents, bytes: artifact.len() as u64 }, artifact))
}

/// Lays the contents behind the code, where they can be mapped from.
fn lay_behind(artifact: &mut Vec<u8>, contents: Vec<FirstContent>) -> Vec<ContentAt> {
    let page = usize::try_from(PAGE_BYTES).expect("64 KiB fit");
    let lay = |content: FirstContent| {
        artifact.resize(artifact.len().next_multiple_of(page), 0);
        let (offset, bytes) = (artifact.len() as u64, content.bytes.len() as u64);
        artifact.extend(content.bytes);
        ContentAt { offset, start: content.start, bytes }
    };
    contents.into_iter().map(lay).collect()
}

/// The names that a component exports, read off its outermost layer: which engine compiles it depends on them.
fn exports(wasm: &[u8]) -> Result<Vec<String>, Refused> {
    let invalid = |error: wasmparser::BinaryReaderError| Refused::Invalid(error.to_string());
    let mut names = Vec::new();
    let mut depth = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// One that exports both speaks the newer one.
fn flavour(exports: &[String]) -> Option<Flavour> {
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    if has("wasi:http/handler@0.3.") {
        Some(Flavour::Http03)
    } else if has("wasi:http/incoming-handler@0.2.") {
        Some(Flavour::Http02)
    } else {
        None
    }
}

fn imports(engine: &Engine, component: &Component) -> Result<Vec<String>, Refused> {
    let mut imports: Vec<String> =
        component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort_unstable();
    match imports.iter().find(|name| need(name) == Need::Unknown) {
        Some(unknown) => Err(Refused::UnknownImport(cut(unknown))),
        None => Ok(imports),
    }
}

fn reason(error: &wasmtime::Error) -> String {
    cut(&format!("{error:#}"))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}
