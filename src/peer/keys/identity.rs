//! Who a certificate says its owner is: a DNS name in the subject alternative name (RFC 5280 §4.2.1.6).

use crate::NodeId;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// Last label of every name.
const SUFFIX: &str = "zonekeeper";

/// What a node's certificate says about its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster: u128,
    /// Id of the node.
    pub node: NodeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// The DNS name of a node: `node-3.<cluster id, 32 hex digits>.zonekeeper`.
pub(crate) fn name(cluster: u128, node: NodeId) -> String {
    format!("node-{node}.{cluster:032x}.{SUFFIX}")
}

/// The inverse of [`name`]; only the exact form is taken.
fn parse_name(text: &str) -> Option<(u128, NodeId)> {
    let (node, rest) = text.strip_prefix("node-")?.split_once('.')?;
    let (cluster, suffix) = rest.split_once('.')?;
    let (cluster, node) = (u128::from_str_radix(cluster, 16).ok()?, node.parse().ok()?);
    (suffix == SUFFIX && name(cluster, node) == text).then_some((cluster, node))
}

/// Common name of a cluster's CA.
pub(crate) fn ca_name(cluster: u128) -> String {
    format!("zonekeeper {cluster:032x}")
}

/// The inverse of [`ca_name`].
pub(crate) fn parse_ca_name(text: &str) -> Option<u128> {
    let cluster = u128::from_str_radix(text.strip_prefix("zonekeeper ")?, 16).ok()?;
    (ca_name(cluster) == text).then_some(cluster)
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}

impl Identity {
    /// Reads a certificate in DER form; `None` when it is not a certificate with exactly one name of ours.
    pub fn of(der: &[u8]) -> Option<Identity> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let names = cert.subject_alternative_name().ok()??;
        let [GeneralName::DNSName(text)] = names.value.general_names[..] else { return None };
        let (cluster, node) = parse_name(text)?;
        let validity = cert.validity();
        let (not_before, not_after) =
            (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
        Some(Identity { cluster, node, not_before, not_after })
    }
}

/// The cluster that a CA certificate belongs to.
pub(crate) fn ca_cluster(der: &[u8]) -> Option<u128> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    cert.subject().iter_common_name().next()?.as_str().ok().and_then(parse_ca_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_is_taken() {
        let good = name(0xabc, 3);
        assert_eq!(good, "node-3.00000000000000000000000000000abc.zonekeeper");
        assert_eq!(parse_name(&good), Some((0xabc, 3)));
        for bad in [
            good.replace("node-3", "node-03"),
            good.replace("node-3", "node-+3"),
            good.replace("abc", "ABC"),
            good.replace(".zonekeeper", ".zonekeeper.example"),
            format!("x.{good}"),
            good.replace("000", "00"),
            "*".into(),
        ] {
            assert_eq!(parse_name(&bad), None, "{bad}");
        }
        assert_eq!(parse_ca_name(&ca_name(7)), Some(7));
        assert_eq!(parse_ca_name("zonekeeper 7"), None);
    }
}
