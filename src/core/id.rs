//! Identifiers: each one parsed once into a type that cannot be wrong.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A node's id in Raft. Never reused after the node's disk was wiped.
pub type NodeId = u64;

/// Why a label was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing between the quotes.
    #[error("is empty; give 1 to 63 characters of a-z, 0-9, '-', '_' or '.'")]
    Empty,
    /// More than 63 characters.
    #[error("has {0} characters; at most 63 are allowed")]
    Long(usize),
    /// A character outside the set.
    #[error("contains {0:?}; allowed are a-z, 0-9, '-', '_' and '.'")]
    Character(char),
}

fn check(s: &str) -> Result<(), LabelError> {
    match s.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.')) {
        _ if s.is_empty() => Err(LabelError::Empty),
        _ if s.len() > 63 => Err(LabelError::Long(s.len())),
        Some(c) => Err(LabelError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The label as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = LabelError;
            fn try_from(s: String) -> Result<Self, LabelError> {
                check(&s)?;
                Ok(Self(s))
            }
        }

        impl core::str::FromStr for $name {
            type Err = LabelError;
            fn from_str(s: &str) -> Result<Self, LabelError> {
                check(s)?;
                Ok(Self(s.into()))
            }
        }

        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

label!(
    /// A site: a place that can fail as a whole (a region, a data centre, an availability zone).
    SiteId
);
label!(
    /// A service: DNS names plus a steering policy over endpoints.
    ServiceId
);
label!(
    /// A pool of proxy backends.
    PoolId
);
label!(
    /// A proxy listener.
    ListenerId
);
label!(
    /// A certificate with its key that the cluster holds.
    CertificateId
);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_label_says_what_is_wrong_with_it() {
        assert_eq!("Fra".parse::<SiteId>(), Err(LabelError::Character('F')));
        assert_eq!("".parse::<SiteId>(), Err(LabelError::Empty));
        assert_eq!("x".repeat(64).parse::<SiteId>(), Err(LabelError::Long(64)));
        assert_eq!("eu-1".parse::<SiteId>().map(|s| s.to_string()), Ok("eu-1".into()));
    }
}
