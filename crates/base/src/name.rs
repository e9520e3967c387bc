//! Names that people give to things, and the domains that visitors type.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{DOMAIN_BYTES_MAX, NAME_BYTES_MAX};
use crate::text::as_text;

/// The name of a tenant, app, stage, component or binding: a DNS label without `--`.
///
/// Lower-case letters, digits and single hyphens, a letter or digit at both ends. `--` is kept for host
/// names, where it stands between a stage and its app.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to {NAME_BYTES_MAX} lower-case letters, digits and single hyphens, \
     with a letter or digit at both ends"
)]
pub struct NameError(String);

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !bytes.is_empty() && bytes.iter().all(inner) && bytes.first() != Some(&b'-') && bytes.last() != Some(&b'-')
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= NAME_BYTES_MAX && is_label(text) && !text.contains("--") {
            Ok(Self(text.into()))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }
}

/// A host name that a visitor types: at least two DNS labels in lower case, no port, no trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

/// Text that is not a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a domain: write a host name such as shop.example, in lower case, without a port or path")]
pub struct DomainError(String);

impl Domain {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is this `parent`, or a name below it?
    #[must_use]
    pub fn is_within(&self, parent: &str) -> bool {
        self.0.strip_suffix(parent).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let labels = text.split('.');
        let numeric_end = text.rsplit('.').next().is_some_and(|end| end.bytes().all(|byte| byte.is_ascii_digit()));
        let well_formed = text.len() <= DOMAIN_BYTES_MAX
            && text.contains('.')
            && !numeric_end
            && labels.clone().all(|label| label.len() <= 63 && is_label(label));
        if well_formed { Ok(Self(text.into())) } else { Err(DomainError(text.chars().take(80).collect())) }
    }
}

macro_rules! shown {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

shown! { Name Domain }

as_text! {
    Name, "^(?!.*--)[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", "Lower-case letters, digits and single hyphens";
    Domain, "^(?=.{3,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+(?![0-9]+$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "A host name such as shop.example";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_labels() {
        for right in ["a", "shop", "shop-2", "7", &"a".repeat(NAME_BYTES_MAX)] {
            assert!(right.parse::<Name>().is_ok(), "{right}");
        }
        for wrong in ["", "-a", "a-", "a--b", "Shop", "a.b", "a/b", "..", "a b", "é", &"a".repeat(NAME_BYTES_MAX + 1)]
        {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn domains_have_two_labels_or_more() {
        for right in ["shop.example", "a.b.c", "xn--bcher-kva.example"] {
            assert!(right.parse::<Domain>().is_ok(), "{right}");
        }
        for wrong in
            ["shop", "shop.example.", ".example", "a..b", "Shop.example", "shop.example:80", "127.0.0.1", "*.example"]
        {
            assert!(wrong.parse::<Domain>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_domain_lies_within_its_parent_only_at_a_label() {
        let domain: Domain = "a.shop.example".parse().expect("written above");
        assert!(domain.is_within("shop.example"));
        assert!(domain.is_within("a.shop.example"));
        assert!(!domain.is_within("hop.example"));
    }
}
