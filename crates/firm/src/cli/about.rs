//! Which app and stage a command is about.

use std::path::Path;

use base::Name;
use studio::project;

use super::failure::Outcome;
use super::session::Session;

/// The app, for every command about one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AppArg {
    /// The app [default: the one that firm.toml names in the current folder]
    #[arg(long, global = true, value_name = "NAME")]
    pub app: Option<Name>,
}

/// The stage, for every command about one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct StageArg {
    /// The stage
    #[arg(long, global = true, value_name = "NAME", default_value = "live")]
    pub stage: Name,
}

impl AppArg {
    /// The app's name, from the flag or else the manifest of the current folder.
    pub(super) fn name(&self, command: &str) -> Outcome<Name> {
        if let Some(app) = &self.app {
            return Ok(app.clone());
        }
        let here = Path::new(".");
        Ok(project::app_of(here)?.ok_or_else(|| project::nameless(here, command))?)
    }

    /// The API's path of something that the app has.
    pub(super) async fn path(&self, session: &Session, command: &str, rest: &str) -> Outcome<String> {
        let app = self.name(command)?;
        session.of_tenant(&format!("/apps/{app}{rest}")).await
    }
}
