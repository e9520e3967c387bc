//! Builds a tenant's source into a WebAssembly component, with its ecosystem's own tool.
//!
//! The world of the component is written here from what the manifest grants, so that an app which binds no
//! bucket imports no key-value store: the cloud refuses components with imports that nobody granted. Tools that
//! are no part of the ecosystem (220 MB for JavaScript) are installed once a user, not once an app.
//!
//! Nothing is written outside the source's `.firm/` and the tool cache, but for what `npm` itself does to install
//! an app's dependencies. A folder that holds nothing known is refused by [`detect`], not guessed at.

mod javascript;
mod python;
mod rust;
mod tool;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// What a folder holds, told by the file that its ecosystem puts there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `index.html`
    Static,
    /// `package.json`
    JavaScript,
    /// `Cargo.toml`
    Rust,
    /// `pyproject.toml`
    Python,
    /// A file `*.wasm`
    Wasm,
}

/// Tells what `source` is. `index.html` is asked for last: projects of every kind have one.
pub fn detect(source: &Path) -> Option<Kind> {
    if source.is_file() {
        return source.extension().is_some_and(|extension| extension == "wasm").then_some(Kind::Wasm);
    }
    [
        ("package.json", Kind::JavaScript),
        ("Cargo.toml", Kind::Rust),
        ("pyproject.toml", Kind::Python),
        ("index.html", Kind::Static),
    ]
    .into_iter()
    .find_map(|(file, kind)| source.join(file).is_file().then_some(kind))
}

/// What the world of the component may import beyond `wasi:http`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grants {
    /// `wasi:keyvalue`: the manifest binds a bucket.
    pub kv: bool,
    /// `wasi:config`: the manifest binds secrets.
    pub config: bool,
}

/// Where tools are kept for all apps of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tools {
    /// For example `~/.cache/firmament/tools`. Made when it is first needed.
    pub cache: PathBuf,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("`{tool}` is missing, and building {} needs it\n  help: {help}", app.display())]
    ToolMissing { tool: &'static str, app: PathBuf, help: String },
    #[error("`{tool}` here is {found}, and building {} needs {wanted} or newer\n  help: {help}", app.display())]
    ToolTooOld { tool: &'static str, found: String, wanted: &'static str, app: PathBuf, help: String },
    #[error("{what} failed: `{command}` in {} {}\n{}", folder.display(), ended(*status), indented(tail))]
    ToolFailed { what: &'static str, command: String, folder: PathBuf, status: ExitStatus, tail: Vec<String> },
    #[error("cannot start `{command}` in {}", folder.display())]
    ToolNotStarted { command: String, folder: PathBuf, source: std::io::Error },
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}\n  help: {help}", path.display())]
    Source { path: PathBuf, problem: String, help: String },
    #[error("{}: its core module cannot be made a component: {problem}\n  help: {help}", path.display())]
    Encode { path: PathBuf, problem: String, help: &'static str },
}

/// Builds `source` (a folder, or a `.wasm` file) and returns the path of a component.
///
/// A ready component is returned as it is; everything else is in `.firm/build/app.wasm` beside the source.
/// `told` gets lines for a progress bar: the name of each step, then what the tool says.
pub fn component(
    source: &Path,
    kind: Kind,
    grants: &Grants,
    tools: &Tools,
    told: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let source = fs::canonicalize(source).map_err(file("find", source))?;
    // Tools run in other folders than this one, so a relative path would lead them elsewhere.
    let tools = &Tools { cache: std::path::absolute(&tools.cache).map_err(file("find", &tools.cache))? };
    match kind {
        Kind::Static => Err(BuildError::Source {
            path: source,
            problem: "a static site has no component".into(),
            help: "name its folder under [static.…] in firm.toml".into(),
        }),
        Kind::Wasm => ready(&source, told),
        Kind::JavaScript => javascript::build(&source, &Place::make(&source, told)?, grants, tools, told),
        Kind::Rust => rust::build(&source, &Place::make(&source, told)?, tools, told),
        Kind::Python => python::build(&source, &Place::make(&source, told)?, grants, tools, told),
    }
}

/// The world that [`Grants::world`] writes, by the name that build tools are told.
const WORLD: &str = "firmament-guest";

/// The version of WASI that guests are built for; see `wit/README.md` for why it is this one.
const WASI: &str = "0.2.10";
const KEYVALUE: &str = "0.2.0-draft2";
const CONFIG: &str = "0.2.0-rc.1";

const PACKAGES: [(&str, &str); 7] = [
    ("cli.wit", include_str!("../wit/cli.wit")),
    ("clocks.wit", include_str!("../wit/clocks.wit")),
    ("config.wit", include_str!("../wit/config.wit")),
    ("http.wit", include_str!("../wit/http.wit")),
    ("io.wit", include_str!("../wit/io.wit")),
    ("keyvalue.wit", include_str!("../wit/keyvalue.wit")),
    ("random.wit", include_str!("../wit/random.wit")),
];

impl Grants {
    /// The WIT text of the world that a JavaScript or Python component is built for. Their tools import all of a
    /// world, whether the code uses it or not, so it may say no more than was granted.
    pub fn world(&self) -> String {
        let http = format!("include wasi:http/proxy@{WASI};");
        let mut lines = vec![http, format!("import wasi:cli/environment@{WASI};")];
        if self.kv {
            lines.extend(["store", "atomics"].map(|interface| format!("import wasi:keyvalue/{interface}@{KEYVALUE};")));
        }
        if self.config {
            lines.push(format!("import wasi:config/store@{CONFIG};"));
        }
        format!("package firmament:guest;\n\nworld {WORLD} {{\n    {}\n}}\n", lines.join("\n    "))
    }
}

/// A source's `.firm/build`, held by one build at a time.
struct Place {
    build: PathBuf,
    /// Released when it is closed.
    _lock: File,
}

impl Place {
    fn make(source: &Path, told: &mut dyn FnMut(&str)) -> Result<Self, BuildError> {
        let firm = source.join(".firm");
        let build = firm.join("build");
        fs::create_dir_all(&build).map_err(file("make", &build))?;
        write(&firm.join(".gitignore"), b"*\n")?;
        let lock = tool::lock(&firm.join("lock"), told)?;
        Ok(Self { build, _lock: lock })
    }

    fn component(&self) -> PathBuf {
        self.build.join("app.wasm")
    }

    /// Writes the granted world and the packages that it names, as build tools expect to find them.
    fn wit(&self, grants: &Grants) -> Result<PathBuf, BuildError> {
        let wit = self.build.join("wit");
        let deps = wit.join("deps");
        fs::create_dir_all(&deps).map_err(file("make", &deps))?;
        for (name, text) in PACKAGES {
            write(&deps.join(name), text.as_bytes())?;
        }
        write(&wit.join("world.wit"), grants.world().as_bytes())?;
        Ok(wit)
    }

    /// Puts the finished component in its place in one step: whoever reads it meanwhile has the old one or the new one.
    fn finish(&self, component: &[u8]) -> Result<PathBuf, BuildError> {
        let (part, path) = (self.build.join("app.wasm.part"), self.component());
        write(&part, component)?;
        fs::rename(&part, &path).map_err(file("write", &path))?;
        Ok(path)
    }
}

/// A core module that is larger was not written by people, and encoding holds it in memory a few times over.
const CORE_MODULE_BYTES_MAX: u64 = 256 << 20;

/// What a `.wasm` file starts with: `\0asm`, then a version, then what it is.
const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

fn ready(path: &Path, told: &mut dyn FnMut(&str)) -> Result<PathBuf, BuildError> {
    let mut start = Vec::new();
    let opened = File::open(path).map_err(file("open", path))?;
    opened.take(8).read_to_end(&mut start).map_err(file("read", path))?;
    if start == COMPONENT {
        return Ok(path.to_owned());
    }
    let refused = |problem: &str, help: &str| BuildError::Source {
        path: path.to_owned(),
        problem: problem.to_owned(),
        help: help.to_owned(),
    };
    if start != CORE_MODULE {
        return Err(refused("is no WebAssembly file", "push the file that your build tool calls a component"));
    }
    if fs::metadata(path).map_err(file("read", path))?.len() > CORE_MODULE_BYTES_MAX {
        return Err(refused("is a core module of more than 256 MiB", "push it as a component"));
    }
    let module = fs::read(path).map_err(file("read", path))?;
    if !described(&module) {
        return Err(refused(
            "is a core module that does not say what it imports and exports",
            "build it as a component: for Rust, `cargo build --target wasm32-wasip2`; for C, generate its bindings with wit-bindgen; \
             for one that you have the WIT of, `wasm-tools component embed`",
        ));
    }
    told("encoding the component");
    let component = encode(path, &module)?;
    let folder = path.parent().expect("a canonical path to a file has a parent");
    Place::make(folder, told)?.finish(&component)
}

/// Whether the module carries the section in which wit-bindgen writes down its world. A module that only has the
/// words in its data passes too, and is refused by the encoder.
fn described(module: &[u8]) -> bool {
    let name = b"component-type";
    module.windows(name.len()).any(|window| window == name)
}

/// Makes a core module built against wit-bindgen a component.
fn encode(path: &Path, module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let failed = |error: &dyn std::fmt::Display| BuildError::Encode {
        path: path.to_owned(),
        problem: format!("{error:#}"),
        help: if module.windows(22).any(|window| window == b"wasi_snapshot_preview1") {
            "it is built for WASI preview 1; build it for wasm32-wasip2"
        } else {
            "it must be built with wit-bindgen, or be pushed as a component"
        },
    };
    let mut encoder = wit_component::ComponentEncoder::default().validate(true);
    encoder = encoder.module(module).map_err(|error| failed(&error))?;
    encoder.encode().map_err(|error| failed(&error))
}

fn write(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    fs::write(path, content).map_err(file("write", path))
}

/// For `map_err`: an error that knows the file, and what was being done to it.
fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { doing, path, source }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
