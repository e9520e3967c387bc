//! A command that didn't do what it was asked: one shape for people, one for scripts.
//!
//! People read `error: …`, the place where it lies, `help: …`; scripts read `{"error": Problem}`.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use api::{ClientError, Problem};
use serde::Serialize;
use state::manifest::ManifestError;
use studio::project::ProjectError;

use super::exit::Exit;

/// How a command failed.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// None when there is nobody left to tell: the reader of standard output went away.
    problem: Option<Box<Problem>>,
    /// What people see in place of the message, such as the lines of a manifest.
    shown: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Failure>;

#[derive(Serialize)]
struct Told<'a> {
    error: &'a Problem,
}

impl Failure {
    /// A message may end in a line `  help: …`, as the errors of `studio` do.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        let (message, help) = match message.split_once("\n  help: ") {
            Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
            None => (message, None),
        };
        let problem =
            Problem { code: exit.word().to_owned(), message, help, faults: Vec::new(), request: String::new() };
        Self { exit, problem: Some(Box::new(problem)), shown: None }
    }

    /// An error and its causes.
    pub fn of(exit: Exit, error: &dyn Error) -> Self {
        // The help of an error stands at its end, and must stay there when the cause follows.
        let line = error.to_string();
        let (message, help) =
            line.split_once("\n  help: ").map_or((line.as_str(), None), |(said, help)| (said, Some(help)));
        let mut message = message.to_owned();
        let mut help = help.map(str::to_owned);
        if let Some(cause) = error.source() {
            let inner = Self::of(exit, cause);
            if let Some(problem) = inner.problem {
                message = format!("{message}: {}", problem.message);
                help = help.or(problem.help);
            }
        }
        let mut failure = Self::new(exit, message);
        if let (Some(problem), Some(help)) = (&mut failure.problem, help) {
            problem.help = Some(help);
        }
        failure
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(problem) = &mut self.problem {
            problem.help = Some(help.into());
        }
        self
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A manifest that can't be used: people see its lines, scripts the whole of it as the message.
    pub fn manifest(error: &ManifestError, told: Option<Box<Problem>>) -> Self {
        let text = error.to_string();
        let problem = told.unwrap_or_else(|| {
            let (code, message) = ("manifest".to_owned(), text.clone());
            Box::new(Problem { code, message, help: None, faults: Vec::new(), request: String::new() })
        });
        Self { exit: Exit::Refused, problem: Some(problem), shown: Some(text) }
    }

    /// The word for scripts.
    pub fn code(&self) -> Option<&str> {
        self.problem.as_deref().map(|problem| problem.code.as_str())
    }

    /// What happened.
    pub fn message(&self) -> Option<&str> {
        self.problem.as_deref().map(|problem| problem.message.as_str())
    }

    /// Does it say what to do next?
    pub fn has_help(&self) -> bool {
        self.problem.as_deref().is_some_and(|problem| problem.help.is_some())
    }

    /// One JSON object.
    pub fn json(&self) -> Option<String> {
        self.problem.as_deref().and_then(|error| serde_json::to_string(&Told { error }).ok())
    }

    /// For people, `error` being how the word is drawn.
    pub fn text(&self, error: &str) -> Option<String> {
        let problem = self.problem.as_deref()?;
        if let Some(shown) = &self.shown {
            return Some(format!("{error}: {shown}"));
        }
        let mut text = format!("{error}: {}", problem.message);
        for fault in &problem.faults {
            let _ = write!(text, "\n  {}: {}\n    help: {}", fault.at, fault.said, fault.help);
        }
        if let Some(help) = &problem.help {
            let _ = write!(text, "\n  help: {help}");
        }
        if self.exit == Exit::Refused && !problem.request.is_empty() && problem.code == "internal" {
            let _ = write!(text, "\n  request: {} (finds it in the box's log)", problem.request);
        }
        Some(text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = Exit::of(&error);
        match error {
            ClientError::Refused(problem, _) => Self { exit, problem: Some(problem), shown: None },
            ClientError::Connect { .. } => Self::of(exit, &error)
                .help("start one on this machine with `firm up`, or choose another: firm context list"),
            ClientError::Tls { .. } => Self::of(exit, &error)
                .help("if the cloud was set up anew, its context is out of date: firm context list"),
            ClientError::Authority(_) | ClientError::AuthorityRefused(_) | ClientError::Host(_) => {
                Self::of(exit, &error).help("write the context anew: firm context add --help")
            }
            ClientError::Json(_) => {
                Self::of(exit, &error).help("are `firm` here and the cloud of the same version? firm status")
            }
            ClientError::Broken(_) | ClientError::Answer(_) | ClientError::Path(_) => Self::of(exit, &error),
        }
    }
}

impl From<ProjectError> for Failure {
    fn from(error: ProjectError) -> Self {
        match error {
            ProjectError::Manifest(error) => Self::manifest(&error, None),
            ProjectError::NoApp(_) => Self::of(Exit::Usage, &error),
            _ => Self::of(Exit::Refused, &error),
        }
    }
}

/// Writing to standard output failed. Where its reader went away (`firm logs | head`), that is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Done, problem: None, shown: None };
        }
        Self::new(Exit::Refused, format!("the output can't be written: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("component `app` couldn't be built")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("`npm` is missing\n  help: install it")]
    struct Inner;

    #[test]
    fn the_cause_comes_before_the_help() {
        let failure = Failure::of(Exit::Refused, &Outer(Inner));
        expect![[r"
            error: component `app` couldn't be built: `npm` is missing
              help: install it"]]
        .assert_eq(&failure.text("error").expect("it says something"));
        expect![[r#"{"error":{"code":"failed","message":"component `app` couldn't be built: `npm` is missing","help":"install it","request":""}}"#]]
            .assert_eq(&failure.json().expect("it says something"));
    }

    #[test]
    fn a_reader_who_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.json(), failure.text("error")), (Exit::Done, None, None));
    }
}
