use std::fs;
use std::path::Path;
use std::process::Command;

use super::tool::{Stdout, run};
use super::*;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("the machine has a temporary folder");
    for name in files {
        fs::write(folder.path().join(name), "").expect("the folder is ours");
    }
    folder
}

fn build(source: &Path, kind: Kind) -> Result<PathBuf, BuildError> {
    let tools = Tools { cache: source.join("cache") };
    component(source, kind, &Grants { kv: false, config: false }, &tools, &mut |_| ())
}

#[test]
fn a_folder_is_told_by_its_ecosystems_file() {
    for (files, kind) in [
        (&["index.html"][..], Some(Kind::Static)),
        (&["index.html", "package.json"], Some(Kind::JavaScript)),
        (&["index.html", "Cargo.toml"], Some(Kind::Rust)),
        (&["index.html", "pyproject.toml"], Some(Kind::Python)),
        (&["package.json", "Cargo.toml"], Some(Kind::JavaScript)),
        (&["app.wasm"], None),
        (&["notes.txt"], None),
        (&[], None),
    ] {
        assert_eq!(detect(folder(files).path()), kind, "{files:?}");
    }
    let one = folder(&["app.wasm", "app.txt"]);
    assert_eq!(detect(&one.path().join("app.wasm")), Some(Kind::Wasm));
    assert_eq!(detect(&one.path().join("app.txt")), None);
    assert_eq!(detect(&one.path().join("missing.wasm")), None);
}

#[test]
fn the_world_imports_what_is_granted_and_no_more() {
    let plain = Grants { kv: false, config: false }.world();
    assert_eq!(
        plain,
        "package firmament:guest;\n\nworld firmament-guest {\n    include wasi:http/proxy@0.2.10;\n    import wasi:cli/environment@0.2.10;\n}\n"
    );
    let kv = Grants { kv: true, config: false }.world();
    assert!(kv.contains("import wasi:keyvalue/store@0.2.0-draft2;") && !kv.contains("wasi:config"), "{kv}");
    let config = Grants { kv: false, config: true }.world();
    assert!(config.contains("import wasi:config/store@0.2.0-rc.1;") && !config.contains("wasi:keyvalue"), "{config}");
}

#[test]
fn the_worlds_versions_are_those_of_the_packages() {
    for (name, text) in PACKAGES {
        let version = match name {
            "keyvalue.wit" => KEYVALUE,
            "config.wit" => CONFIG,
            _ => WASI,
        };
        let head = format!("package wasi:{}@{version};\n", name.trim_end_matches(".wit"));
        assert!(text.starts_with(&head), "{name} doesn't start with {head}");
    }
}

#[test]
fn a_component_is_taken_as_it_is() {
    let one = folder(&[]);
    let path = one.path().join("app.wasm");
    fs::write(&path, COMPONENT).expect("the folder is ours");
    let built = build(&path, Kind::Wasm).expect("a component needs no building");
    assert_eq!(built, fs::canonicalize(&path).expect("it was just written"));
    assert!(!one.path().join(".firm").exists(), "nothing was written");
}

#[test]
fn what_is_no_component_is_refused_with_what_to_do() {
    let one = folder(&[]);
    let path = one.path().join("app.wasm");
    for (content, says) in [
        (&b"hello"[..], "is no WebAssembly file"),
        (b"", "is no WebAssembly file"),
        (
            &CORE_MODULE,
            "is a core module that does not say what it imports and exports\n  help: build it as a component",
        ),
        // The words of the section without the section.
        (b"\0asm\x01\0\0\0\x00\x0f\x0ecomponent-type", "cannot be made a component"),
    ] {
        fs::write(&path, content).expect("the folder is ours");
        let refused = build(&path, Kind::Wasm).expect_err("it is no component").to_string();
        assert!(refused.contains(says) && refused.contains("help: "), "{refused}");
    }
}

#[test]
fn a_missing_entry_is_named() {
    let one = folder(&[]);
    fs::write(one.path().join("package.json"), r#"{ "main": "gone.js" }"#).expect("the folder is ours");
    // Where node is missing, that is said first.
    let refused = build(one.path(), Kind::JavaScript).expect_err("there is nothing to build").to_string();
    assert!(refused.contains("`gone.js`, and there is no such file") || refused.contains("nodejs.org"), "{refused}");
}

#[test]
fn a_failed_tools_error_says_which_where_how_and_its_last_lines() {
    let one = folder(&[]);
    let script = "i=1; while [ $i -le 50 ]; do echo line $i; i=$((i+1)); done; exit 3";
    let mut told = Vec::new();
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(one.path());
    let failed = run("trying", &mut command, Stdout::Progress, &mut |line| told.push(line.to_owned()));
    let text = failed.expect_err("it exits with 3").to_string();
    assert_eq!(told.first().map(String::as_str), Some("trying"));
    assert_eq!(told.len(), 51);
    assert!(
        text.starts_with("trying failed: `sh -c i=1;") && text.contains("ended with exit code 3\n    line 11\n"),
        "{text}"
    );
    assert!(text.contains(&one.path().display().to_string()) && text.ends_with("    line 50"), "{text}");
}

#[test]
fn a_tool_is_installed_once_and_an_interrupted_one_again() {
    let one = folder(&[]);
    let tools = Tools { cache: one.path().to_owned() };
    let files = [("name", "text")];
    let mut runs = 0;
    let interrupted = tool::installed(&tools, "tool", &files, &mut |_| (), |folder, _| {
        Err(file("make", folder)(std::io::Error::other("interrupted")))
    });
    assert!(interrupted.is_err());
    for _ in 0..2 {
        let place = tool::installed(&tools, "tool", &files, &mut |_| (), |_, _| {
            runs += 1;
            Ok(())
        });
        let place = place.expect("the cache is ours");
        assert_eq!(fs::read_to_string(place.join("name")).expect("it was installed"), "text");
    }
    assert_eq!(runs, 1);
}

#[test]
fn missing_tools_are_named_with_the_app_and_what_to_type() {
    let missing = BuildError::ToolMissing { tool: "npm", app: "shop".into(), help: "apt install npm".into() };
    assert_eq!(missing.to_string(), "`npm` is missing, and building shop needs it\n  help: apt install npm");
}
