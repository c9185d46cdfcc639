//! Tokens, join tokens, webhooks and certificates. A secret leaves the server once, in the answer that made it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zonekeeper_core::entry::Role;

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// `read`, `operate` or `admin`; each includes the ones before.
    #[schema(value_type = String, example = "operate")]
    pub role: Role,
    /// When it ends; absent: never.
    pub expires: Option<String>,
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its name, 1 to 63 bytes. It stands as the author beside everything that is done with the token.
    pub name: String,
    /// `read`, `operate` or `admin`.
    #[schema(value_type = String, example = "operate")]
    pub role: Role,
    /// Seconds until it ends; absent: never.
    pub expires_in_s: Option<u64>,
}

/// A new token. The secret is shown here and never again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenSecret {
    /// Its name.
    pub name: String,
    /// `read`, `operate` or `admin`.
    #[schema(value_type = String, example = "operate")]
    pub role: Role,
    /// For `Authorization: Bearer SECRET`.
    pub secret: String,
    /// When it ends; absent: never.
    pub expires: Option<String>,
}

/// A join token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoin {
    /// Seconds until it ends, 1 to 86400.
    #[serde(default = "hour")]
    pub expires_in_s: u64,
}

fn hour() -> u64 {
    3600
}

/// A new join token: lets one node join, once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinSecret {
    /// What the new node needs; it also names the cluster's CA, so that the secret goes to nobody else.
    pub token: String,
    /// When it ends.
    pub expires: String,
}

/// Where decisions are announced, without the signing key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Receives a POST for each announcement.
    pub url: String,
}

/// A webhook to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// `http://...`.
    pub url: String,
    /// Key of the HMAC-SHA-256 signature, 16 to 256 bytes; absent: one is made.
    pub secret: Option<String>,
}

/// A new webhook. The key is shown here and never again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WebhookSecret {
    /// Receives a POST for each announcement.
    pub url: String,
    /// Key of the HMAC-SHA-256 signature.
    pub secret: String,
}

/// A certificate that the cluster holds, without its key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Its name in the cluster.
    pub name: String,
    /// The DNS names that it is good for.
    pub names: Vec<String>,
    /// When it begins to be good.
    pub not_before: Option<String>,
    /// When it ends.
    pub not_after: Option<String>,
    /// SHA-256 of the certificate, in hex.
    pub sha256: Option<String>,
    /// The listeners that use it.
    pub listeners: Vec<String>,
    /// When it was put.
    pub since: String,
    /// Whether this node can open it; what stands in the certificate is known only then.
    pub opens: bool,
    /// Somebody who should not may know its key: a removed member. Put another one.
    pub known: bool,
}

/// A certificate to be held.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCertificate {
    /// The certificate and its intermediates, as PEM text.
    pub cert: String,
    /// Its key, as PEM text; absent: it stands in `cert`.
    pub key: Option<String>,
}

impl std::fmt::Debug for NewCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewCertificate(…)")
    }
}

/// The common secrets of the cluster, without the secrets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommonSecrets {
    /// Id of the cluster key that new secrets are sealed under; none: the cluster seals nothing yet.
    pub key: Option<String>,
    /// Whether this node holds that key.
    pub held: bool,
    /// Another key is on its way to the members.
    pub replacing: bool,
    /// The secrets.
    pub secrets: Vec<CommonSecret>,
}

/// One common secret and its rollover.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommonSecret {
    /// `dns-cookie`, `session` (TLS session tickets, sticky cookies) or `webhook`.
    pub name: String,
    /// Of a webhook: scheme, host and port.
    pub url: Option<String>,
    /// `settled`: one secret. `staged`: a new one is accepted and not used yet. `retiring`: the old one is still accepted.
    pub step: String,
    /// When the last step was taken.
    pub since: Option<String>,
    /// When the next step is due.
    pub next: Option<String>,
    /// Id of the cluster key that it is sealed under; none: it stands in the log as it is (cluster version 1).
    pub key: Option<String>,
    /// Whether this node can open it.
    pub opens: bool,
    /// Somebody who should not may know it: a removed member, or who reads old logs and backups. The cluster rolls its own
    /// secrets then; a webhook is to be put again.
    pub known: bool,
}
