//! What a command's exit code says. Scripts rely on it; `firm --help` and the docs list it from here.

use std::fmt::Write as _;

use api::ClientError;
use http::StatusCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Refused = 1,
    Usage = 2,
    Unreachable = 3,
    NotAllowed = 4,
    NotFound = 5,
    Unknown = 6,
    Interrupted = 130,
}

impl Exit {
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Refused,
        Self::Usage,
        Self::Unreachable,
        Self::NotAllowed,
        Self::NotFound,
        Self::Unknown,
        Self::Interrupted,
    ];

    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in a line.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused or failed; nothing half done is left",
            Self::Usage => "the command line is wrong, or an answer was needed and nobody was there to ask",
            Self::Unreachable => "no cloud answers at the context's address, or there is no context yet",
            Self::NotAllowed => "the token is missing, expired, revoked, or its grant is too little",
            Self::NotFound => "there is no such app, stage, release, variable, secret, domain, tenant or token",
            Self::Unknown => "the connection broke or a deadline passed: whether it was done is unknown",
            Self::Interrupted => "interrupted with Ctrl-C",
        }
    }

    /// The word for it in an error of `--json`, where the cloud gave none.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
        }
    }

    #[must_use]
    pub fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Connect { .. } | ClientError::Tls { .. } => Self::Unreachable,
            ClientError::Broken(_) | ClientError::Answer(_) => Self::Unknown,
            ClientError::Refused(_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Self::NotAllowed,
            ClientError::Refused(_, StatusCode::NOT_FOUND) => Self::NotFound,
            ClientError::Authority(_)
            | ClientError::AuthorityRefused(_)
            | ClientError::Host(_)
            | ClientError::Path(_)
            | ClientError::Json(_)
            | ClientError::Refused(..) => Self::Refused,
        }
    }
}

/// The table, a code a line.
#[must_use]
pub fn table() -> String {
    let mut table = String::new();
    for exit in Exit::ALL {
        let _ = writeln!(table, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: StatusCode) -> ClientError {
        let problem = api::Problem {
            code: "x".into(),
            message: "x".into(),
            help: None,
            faults: Vec::new(),
            request: String::new(),
        };
        ClientError::Refused(Box::new(problem), status)
    }

    #[test]
    fn every_refusal_has_its_code() {
        for (status, exit) in [(400, 1), (401, 4), (403, 4), (404, 5), (409, 1), (422, 1), (429, 1), (500, 1), (503, 1)]
        {
            let status = StatusCode::from_u16(status).expect("it is one");
            assert_eq!(Exit::of(&refused(status)).code(), exit, "{status}");
        }
        let nobody = ClientError::Connect { address: "x:1".into(), source: std::io::Error::other("refused") };
        assert_eq!(Exit::of(&nobody), Exit::Unreachable);
        assert_eq!(Exit::of(&ClientError::Answer("cut".into())), Exit::Unknown);
    }

    #[test]
    fn no_code_means_two_things() {
        let codes: std::collections::BTreeSet<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes.len(), Exit::ALL.len());
    }
}
