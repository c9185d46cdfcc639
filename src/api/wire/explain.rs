//! What is answered, and why.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What DNS answers to a question, and why.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DnsExplanation {
    /// The question's name.
    pub name: String,
    /// The question's type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The client that was assumed.
    pub client: Option<String>,
    /// `NOERROR`, `NXDOMAIN`, `SERVFAIL` or `REFUSED`.
    pub rcode: String,
    /// The answer section, one record a line.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
    /// The reasoning, one sentence each.
    pub why: Vec<String>,
}

/// Where the proxy sends a request, and why.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RequestExplanation {
    /// The listener.
    pub listener: Option<String>,
    /// The pool, or the pools between which requests are split.
    pub pool: Option<String>,
    /// What becomes of the request, in words; absent when no route takes it.
    pub target: Option<String>,
    /// The backends that may take it.
    pub candidates: Vec<String>,
    /// The reasoning, one sentence each.
    pub why: Vec<String>,
}
