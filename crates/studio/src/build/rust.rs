//! Rust: `cargo build` for wasm32-wasip2, or, where rustup's server is out of reach, for wasm32-unknown-unknown
//! with the standard library built from the sources that `tools/guest-rust` fetched. The second way has no WASI
//! beneath the standard library: `println!` and `std::time` do nothing there, bindings work alike.
//!
//! All apps of a user share one target folder in the tool cache: the second app finds the standard library and the
//! usual crates built, a minute saved. Build and copy happen under a lock, because two packages of one name also
//! share the finished file's path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool::{self, Stdout, answers, command, run};
use super::{BuildError, Place, Tools, encode, file};

const TARGET: &str = "wasm32-wasip2";
const TARGET_BARE: &str = "wasm32-unknown-unknown";

pub(super) fn build(
    source: &Path,
    place: &Place,
    tools: &Tools,
    told: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    if !answers(command("cargo", source).arg("--version")) {
        let help = "install Rust: https://rustup.rs, or `apt install cargo`".to_owned();
        return Err(BuildError::ToolMissing { tool: "cargo", app: source.to_owned(), help });
    }
    let mut cargo = command("cargo", source);
    cargo.args(["build", "--release", "--message-format=json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(tools.cache.join("rust-target"));
    let bare = tools.cache.join("rust");
    if has_target(source) {
        cargo.args(["--target", TARGET]);
    } else if bare.join("ready").is_file() {
        use_bare(&mut cargo, &bare);
    } else {
        let help =
            format!("rustup target add {TARGET}, or, where only package registries can be reached: tools/guest-rust");
        return Err(BuildError::ToolMissing { tool: "Rust's target wasm32-wasip2", app: source.to_owned(), help });
    }

    let _lock = tool::lock(&tools.cache.join("rust-target.lock"), told)?;
    let messages = run("building the component", &mut cargo, Stdout::Kept, told)?;
    let wasm = produced(source, &messages)?;
    let module = fs::read(&wasm).map_err(file("read", &wasm))?;
    // The linker for wasm32-wasip2 encodes; the one for the bare target leaves a core module.
    if module.starts_with(&super::CORE_MODULE) {
        told("encoding the component");
        return place.finish(&encode(&wasm, &module)?);
    }
    place.finish(&module)
}

/// Asked in the app's folder, where a rust-toolchain.toml may choose another toolchain than elsewhere.
fn has_target(source: &Path) -> bool {
    let asked = command("rustc", source).args(["--print", "target-libdir", "--target", TARGET]).output();
    asked.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Has `cargo` build with the toolchain that `tools/guest-rust` unpacked, its standard library included.
fn use_bare(cargo: &mut Command, toolchain: &Path) {
    cargo.args(["--target", TARGET_BARE, "-Zbuild-std=std,panic_abort"]);
    cargo.env("RUSTC", toolchain.join("bin/rustc"));
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", toolchain.join("bin/rust-lld"));
    // Building the standard library is not yet a stable option.
    cargo.env("RUSTC_BOOTSTRAP", "1");
}

/// The one `.wasm` file among what cargo reports.
fn produced(source: &Path, messages: &[String]) -> Result<PathBuf, BuildError> {
    let mut found = Vec::new();
    for message in messages {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(message) else { continue };
        if message["reason"] == "compiler-artifact" {
            let files = message["filenames"].as_array().into_iter().flatten().filter_map(|path| path.as_str());
            found.extend(files.map(PathBuf::from).filter(|path| path.extension().is_some_and(|end| end == "wasm")));
        }
    }
    if found.len() == 1 {
        return Ok(found.remove(0));
    }
    let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
    Err(BuildError::Source {
        path: source.join("Cargo.toml"),
        problem: match names.as_slice() {
            [] => "it builds no component".to_owned(),
            names => format!("it builds more than one component: {}", names.join(", ")),
        },
        help: match names.as_slice() {
            [] => "add: [lib] crate-type = [\"cdylib\"]".into(),
            _ => "name one package's folder as `source` in firm.toml".into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(path: &str) -> String {
        serde_json::json!({ "reason": "compiler-artifact", "filenames": [path] }).to_string()
    }

    #[test]
    fn the_component_is_the_only_wasm_file_that_cargo_reports() {
        let messages = [artifact("/t/libserde.rlib"), "no json".into(), artifact("/t/app.wasm")];
        assert_eq!(produced(Path::new("app"), &messages).expect("there is one"), Path::new("/t/app.wasm"));
    }

    #[test]
    fn none_or_several_are_refused_with_what_to_do() {
        let none = produced(Path::new("app"), &[artifact("/t/libapp.rlib")]).expect_err("there is none");
        assert_eq!(
            none.to_string(),
            "app/Cargo.toml: it builds no component\n  help: add: [lib] crate-type = [\"cdylib\"]"
        );
        let two =
            produced(Path::new("app"), &[artifact("/t/a.wasm"), artifact("/t/b.wasm")]).expect_err("there are two");
        assert_eq!(
            two.to_string(),
            "app/Cargo.toml: it builds more than one component: a.wasm, b.wasm\n  help: name one package's folder as `source` in firm.toml"
        );
    }
}
