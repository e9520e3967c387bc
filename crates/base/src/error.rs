//! One line out of an error and all that caused it.

use std::error::Error;
use std::fmt::Write as _;

/// `error` and its sources, joined by `: `.
///
/// The errors of this tree never print their source themselves, so no sentence comes twice.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(line, ": {cause}").expect("writing to a String can't fail");
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("the record can't be opened")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_cause_follows_what_it_broke() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(chain(&error), "the record can't be opened: disk full");
    }
}
