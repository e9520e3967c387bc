//! Python: componentize-py from the tool cache, in a virtual environment of its own, and the module `firm` that
//! makes an app one function. Dependencies are installed for the component, not for this machine: only pure Python
//! ones work, and others are refused with their names rather than found missing at the first request.

use std::fs;
use std::path::{Path, PathBuf};

use super::tool::{self, Stdout, answers, command, run};
use super::{BuildError, CONFIG, Grants, KEYVALUE, Place, Tools, WORLD, file, write};

const TOOL_FILES: [(&str, &str); 2] = [
    ("requirements.txt", include_str!("../../guest/python/requirements.txt")),
    ("project.py", include_str!("../../guest/python/project.py")),
];

const FIRM: &str = include_str!("../../guest/python/firm.py");
const ENTRY: &str = include_str!("../../guest/python/entry.py");

/// Where an app starts when its pyproject.toml names no entry.
const ENTRIES: [&str; 2] = ["app", "main"];

/// The entry point of the tool without its launcher script, which has the path of the folder that it was installed in.
const COMPONENTIZE: &str = "import sys; from componentize_py import script; sys.exit(script())";

pub(super) fn build(
    source: &Path,
    place: &Place,
    grants: &Grants,
    tools: &Tools,
    told: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let tool = tool::installed(tools, "python", &TOOL_FILES, told, |folder, told| {
        if !answers(command("python3", source).args(["-c", "import venv, ensurepip"])) {
            let help = "install Python 3.10 or newer with venv: `apt install python3 python3-venv`".to_owned();
            return Err(BuildError::ToolMissing { tool: "python3 -m venv", app: source.to_owned(), help });
        }
        let what = "installing the Python tools (once, 75 MB)";
        run(what, command("python3", folder).args(["-m", "venv", "."]), Stdout::Progress, told)?;
        let mut pip = command(folder.join("bin/python"), folder);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement", "requirements.txt"]);
        run(what, &mut pip, Stdout::Progress, told).map(drop)
    })?;
    let python = tool.join("bin/python");
    let project = Project::read(source, &python, &tool, told)?;
    let (module, root) = project.entry(source)?;

    // Of the app, too, a copy is built: Python leaves `__pycache__` beside what it imports.
    let app = place.build.join("app");
    renew(&app)?;
    copy(&root, &app)?;

    let glue = place.build.join("python");
    fs::create_dir_all(&glue).map_err(file("make", &glue))?;
    write(&glue.join("firm.py"), FIRM.as_bytes())?;
    write(&glue.join("firm_entry.py"), ENTRY.replace("from app import", &format!("from {module} import")).as_bytes())?;

    let packages = place.build.join("packages");
    renew(&packages)?;
    if !project.dependencies.is_empty() {
        let mut pip = command(&python, source);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--target"]).arg(&packages);
        // Only what runs on any machine: no compiled code, nothing that would have to be compiled.
        pip.args(["--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any", "--"]);
        pip.args(&project.dependencies);
        run("installing the app's dependencies (pure Python only)", &mut pip, Stdout::Progress, told)?;
    }

    let (wit, component) = (place.wit(grants)?, place.component());
    let part = place.build.join("app.wasm.part");
    let mut componentize = command(&python, source);
    componentize.args(["-c", COMPONENTIZE]).arg("-d").arg(&wit).args(["-w", WORLD]);
    // Both interfaces are called `store`; these are the names that `firm` knows them by.
    if grants.kv {
        componentize.arg("--import-interface-name").arg(format!("wasi:keyvalue/store@{KEYVALUE}=keyvalue"));
    }
    if grants.config {
        componentize.arg("--import-interface-name").arg(format!("wasi:config/store@{CONFIG}=config"));
    }
    componentize.arg("componentize");
    for folder in [&app, &glue, &packages] {
        componentize.arg("-p").arg(folder);
    }
    componentize.arg("firm_entry").arg("-o").arg(&part);
    // Else packages of the surrounding environment would be found, on this machine only.
    componentize.env_remove("VIRTUAL_ENV");
    run("building the component", &mut componentize, Stdout::Progress, told)?;
    fs::rename(&part, &component).map_err(file("write", &component))?;
    Ok(component)
}

/// Folders that are never part of an app: environments, caches, other tools' output.
const NOT_THE_APP: [&str; 5] = ["__pycache__", "env", "node_modules", "target", "venv"];

/// Copies the app's files. Links to folders are left out: they may lead back here.
fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    for entry in fs::read_dir(from).map_err(file("read", from))? {
        let entry = entry.map_err(file("read", from))?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with('.') || NOT_THE_APP.iter().any(|other| name == *other) {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type().map_err(file("read", &path))?.is_dir() {
            fs::create_dir(&target).map_err(file("make", &target))?;
            copy(&path, &target)?;
        } else if path.is_file() {
            fs::copy(&path, &target).map_err(file("copy", &path))?;
        }
    }
    Ok(())
}

/// An empty folder, whatever was there.
fn renew(folder: &Path) -> Result<(), BuildError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(file("remove", folder))?;
    }
    fs::create_dir_all(folder).map_err(file("make", folder))
}

/// What pyproject.toml says that matters here.
#[derive(serde::Deserialize)]
struct Project {
    dependencies: Vec<String>,
    entry: Option<String>,
}

impl Project {
    /// Read by Python itself, which has a parser for it.
    fn read(source: &Path, python: &Path, tool: &Path, told: &mut dyn FnMut(&str)) -> Result<Self, BuildError> {
        let path = source.join("pyproject.toml");
        let mut read = command(python, source);
        let lines = run("reading pyproject.toml", read.arg(tool.join("project.py")).arg(&path), Stdout::Kept, told)?;
        serde_json::from_str(&lines.join("\n")).map_err(|error| BuildError::Source {
            path,
            problem: format!("is not as expected: {error}"),
            help: "`dependencies` is a list of strings, `entry` under [tool.firm] the name of a module".into(),
        })
    }

    /// The module that has `handle`, and the folder to import it from.
    fn entry(&self, source: &Path) -> Result<(String, PathBuf), BuildError> {
        let modules = self.entry.as_ref().map_or(ENTRIES.to_vec(), |entry| vec![entry.as_str()]);
        for root in [source.to_owned(), source.join("src")] {
            for module in &modules {
                let path = root.join(module.replace('.', "/"));
                if path.with_extension("py").is_file() || path.join("__init__.py").is_file() {
                    return Ok(((*module).to_owned(), root));
                }
            }
        }
        Err(BuildError::Source {
            path: source.to_owned(),
            problem: format!("there is no module {} here, nor in src", modules.join(" or ")),
            help: "put `def handle(request)` into app.py, or name its module: entry = \"…\" under [tool.firm] in pyproject.toml"
                .into(),
        })
    }
}
