//! What a route looks at in a request.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

/// What a route looks at in a request. Implemented by the codec over the bytes that it parsed, so that matching copies
/// nothing, and by [`Sample`] for `explain` and tests.
pub trait RequestHead {
    /// The method.
    fn method(&self) -> &str;
    /// `Host` as it came, with or without a port; empty when there is none.
    fn host(&self) -> &str;
    /// Path and query.
    fn target(&self) -> &str;
    /// The client's address; none when it is not known.
    fn source(&self) -> Option<IpAddr>;
    /// Whether a value of the header (name in lower case) passes the test.
    fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The path without the query.
    fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }
    /// What stands behind the first `?`.
    fn query(&self) -> &str {
        self.target().split_once('?').map_or("", |(_, query)| query)
    }
}

/// A request in words, to ask where it would go.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The method; `GET` when empty.
    pub method: String,
    /// `Host`.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// The client's address.
    pub source: Option<IpAddr>,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
}

impl RequestHead for Sample {
    fn method(&self) -> &str {
        if self.method.is_empty() { "GET" } else { &self.method }
    }
    fn host(&self) -> &str {
        &self.host
    }
    fn target(&self) -> &str {
        &self.target
    }
    fn source(&self) -> Option<IpAddr> {
        self.source
    }
    fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && test(v.as_bytes()))
    }
}
