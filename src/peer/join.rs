//! Joining a cluster: a short-lived token that also pins the cluster's CA, and the joiner's side.

use crate::{
    frame::{self, FrameError, Reader, Type},
    hello,
    keys::{Credentials, KeyError},
    peers::BoxFuture,
    refusal::Refusal,
    tls,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zonekeeper_core::codec;

/// First part of a token's text.
const PREFIX: &str = "zkjoin1";

/// A join token: a secret that the cluster knows by its hash, and the fingerprint of the CA that the joiner pins, so
/// that the secret goes to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: [u8; 32],
    fingerprint: [u8; 32],
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: expected {PREFIX}-<64 hex digits>-<64 hex digits>; copy the whole line")]
pub struct TokenError;

impl JoinToken {
    /// A new random token for the cluster whose CA has this fingerprint ([`Credentials::ca_fingerprint`]).
    pub fn generate(fingerprint: [u8; 32]) -> io::Result<JoinToken> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(JoinToken { secret, fingerprint })
    }

    /// SHA-256 of the secret: what the replicated state holds.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    /// The CA's fingerprint.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken") // the secret stays out of logs
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for part in [self.secret, self.fingerprint] {
            f.write_str("-")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(text.get(2 * pair..2 * pair + 2)?, 16).ok()?;
    }
    Some(out)
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let (prefix, rest) = text.trim().split_once('-').ok_or(TokenError)?;
        let (secret, fingerprint) = rest.split_once('-').ok_or(TokenError)?;
        match (unhex(secret), unhex(fingerprint)) {
            (Some(secret), Some(fingerprint)) if prefix == PREFIX => Ok(JoinToken { secret, fingerprint }),
            _ => Err(TokenError),
        }
    }
}

/// What a joiner asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// SHA-256 of the token's secret, computed by the server side from the secret that was sent.
    pub hash: [u8; 32],
    /// Certificate signing request, PEM.
    pub csr_pem: String,
    /// What the layer above adds (addresses, site, version); at most 32 KiB.
    pub body: Vec<u8>,
}

/// What a joiner gets. On the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// The node's certificate, PEM.
    pub cert_pem: String,
    /// The trust bundle, PEM.
    pub ca_pem: String,
    /// What the layer above adds (members, settings); together with the certificates at most 512 KiB.
    pub body: Vec<u8>,
}

/// Decides on joins. The transport has counted and bounded; the handler checks the token's hash against the replicated
/// state, uses it up, and signs.
pub trait JoinHandler: Send + Sync + 'static {
    /// The grant, or why not (the text goes to the joiner). `from` is the joiner's address as seen here.
    fn join(&self, from: SocketAddr, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, String>>;
}

/// A finished join.
#[derive(Debug)]
pub struct Joined {
    /// The new node's credentials, not saved yet.
    pub credentials: Credentials,
    /// The handler's bytes.
    pub body: Vec<u8>,
}

/// Why a join failed. The token is used up only when the handler has granted.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error("cannot reach {0}: {1}; check the address and that the member is up")]
    Unreachable(SocketAddr, io::Error),
    /// The server's chain does not end in the CA that the token pins. Nothing was sent.
    #[error(
        "{0} is not of the cluster that the token is for (its CA has another fingerprint); nothing was sent; check the address, or create a new token"
    )]
    Pin(SocketAddr),
    /// The server refused before its handler was asked.
    #[error("join refused: {0}")]
    Refused(Refusal),
    /// The handler said no.
    #[error("join refused: {0}")]
    Denied(String),
    /// Too slow.
    #[error(
        "no answer to the join within {0:?}; the token may be used up: create a new one before trying again"
    )]
    Timeout(Duration),
    /// What came back cannot be used.
    #[error("the certificate that came back cannot be used")]
    Keys(#[from] KeyError),
}

/// What goes over the wire. The secret itself is sent, to a server whose CA was verified; so that who reads the
/// replicated state, which holds hashes, cannot join.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ask {
    secret: [u8; 32],
    csr_pem: String,
    body: Vec<u8>,
}

impl From<Ask> for JoinRequest {
    fn from(ask: Ask) -> JoinRequest {
        JoinRequest { hash: Sha256::digest(ask.secret).into(), csr_pem: ask.csr_pem, body: ask.body }
    }
}

/// Largest request of a joiner: a certificate request and 32 KiB of the layer above.
pub(crate) const ASK_LIMIT: usize = 40 << 10;
/// Largest grant.
pub(crate) const GRANT_LIMIT: usize = 640 << 10;

/// Joins a cluster through one of its members: verifies that the member's chain ends in the pinned CA, sends the token
/// with a certificate request, and returns the new credentials. `body` (at most 32 KiB) is for the handler.
pub async fn join(
    to: SocketAddr,
    token: &JoinToken,
    body: Vec<u8>,
    deadline: Duration,
) -> Result<Joined, JoinError> {
    match timeout(deadline, ask(to, token, body)).await {
        Ok(result) => result,
        Err(_) => Err(JoinError::Timeout(deadline)),
    }
}

async fn ask(to: SocketAddr, token: &JoinToken, body: Vec<u8>) -> Result<Joined, JoinError> {
    let request = Credentials::request()?;
    let failed = |error: io::Error| match tls::refusal(&error) {
        Some((Refusal::Stranger, false)) => JoinError::Pin(to),
        Some((why, _)) => JoinError::Refused(why),
        None => JoinError::Unreachable(to, error),
    };
    let tcp = TcpStream::connect(to).await.map_err(failed)?;
    let config = Arc::new(tls::joiner(token.fingerprint)?);
    let name = tls::server_name(0, 0)?; // not looked at: any member will do
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(failed)?;
    let (read, mut write) = split(stream);
    let ask = Ask { secret: token.secret, csr_pem: request.csr_pem().into(), body };
    let sent = write.write_all(&frame::encode(Type::Join, 0, &codec::bytes(&ask))).await;
    let _ = sent.and(write.flush().await); // when it failed, the reason is there to be read
    let answer = Reader::new(read).next(GRANT_LIMIT).await.map_err(|error| match error {
        FrameError::Io(error) => failed(error),
        FrameError::Codec(_) | FrameError::Type(_) => JoinError::Refused(Refusal::Garbage),
    })?;
    match answer.kind {
        Type::Grant => {
            let grant: JoinGrant =
                codec::from_bytes(&answer.body).map_err(|_| JoinError::Refused(Refusal::Version))?;
            Ok(Joined { credentials: request.finish(&grant.cert_pem, &grant.ca_pem)?, body: grant.body })
        }
        Type::Failure => Err(JoinError::Denied(String::from_utf8_lossy(&answer.body).into_owned())),
        Type::Goodbye => Err(JoinError::Refused(hello::goodbye_reason(&answer))),
        _ => Err(JoinError::Refused(Refusal::Garbage)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_hides_from_logs() {
        let token = JoinToken::generate([7; 32]).unwrap();
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().map(|t| t.hash()), Ok(token.hash()));
        assert_eq!(format!("{token:?}"), "JoinToken");
        for bad in [
            "",
            "zkjoin1",
            &text[1..],
            &text[..text.len() - 1],
            &text.replace("07", "+7"),
            &text.replace("zkjoin1", "zkjoin2"),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenError), "{bad}");
        }
    }
}
