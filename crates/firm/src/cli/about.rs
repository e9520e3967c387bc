//! Which app and stage a command is about.

use std::path::Path;

use base::{Name, ReleaseNo, ReleaseNoError};
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

/// A release as people type it: `r7`, or `7` alone, which can mean nothing else.
pub(super) fn release_no(text: &str) -> Result<ReleaseNo, ReleaseNoError> {
    text.parse().or_else(|error| format!("r{text}").parse().map_err(|_| error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_may_be_typed_as_its_number() {
        assert_eq!(release_no("r7"), Ok(ReleaseNo(7)));
        assert_eq!(release_no("7"), Ok(ReleaseNo(7)));
        for wrong in ["", "r", "rr7", "-7", "+7", "seven", "99999999999"] {
            let error = release_no(wrong).expect_err("it is none");
            assert!(error.to_string().starts_with(&format!("`{wrong}` is not a release")), "{error}");
        }
    }
}
