//! Probes in HTTP/2 (RFC 9113): a request, or gRPC's health checking (`grpc.health.v1.Health/Check`). Its two messages are
//! so small that they are written and read here.

use super::client::{AbortOnDrop, Search, USER_AGENT, of_error};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, Method, Request, Response, Uri, header, uri::PathAndQuery};
use hyper::body::Bytes;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use zonekeeper_core::{
    detector::Observation,
    model::{GrpcCheck, HttpCheck},
};

/// A connection that was used has so long to say good-bye.
const LEAVE: Duration = Duration::from_secs(1);
/// Fields of an answer, its trailers too, in bytes as HTTP/2 counts them.
const FIELDS_LIMIT: u32 = 16 << 10;
/// A message of gRPC is no longer: that of an answer has two bytes.
const MESSAGE_LIMIT: usize = 4 << 10;

/// `GET path`, answered with an expected status and text.
pub(super) async fn get<S>(stream: S, check: &HttpCheck, authority: &str) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(request) = request(Method::GET, check.tls, authority, &check.path) else {
        return Observation::Wrong;
    };
    over(stream, request, None, |response: Response<RecvStream>| async move {
        if !(check.status_min..=check.status_max).contains(&response.status().as_u16()) {
            return Err(Observation::Wrong);
        }
        if check.body.is_empty() {
            return Ok(());
        }
        let (mut body, mut search) = (response.into_body(), Search::new(check.body.as_bytes()));
        while let Some(part) = body.data().await {
            let part = part.map_err(|_| Observation::Wrong)?;
            match search.more(&part) {
                Some(Observation::Answer) => return Ok(()),
                Some(seen) => return Err(seen),
                None => drop(body.flow_control().release_capacity(part.len())),
            }
        }
        Err(Observation::Wrong)
    })
    .await
}

/// `grpc.health.v1.Health/Check`, answered with SERVING.
pub(super) async fn health<S>(stream: S, check: &GrpcCheck, authority: &str) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(mut request) = request(Method::POST, check.tls, authority, "/grpc.health.v1.Health/Check")
    else {
        return Observation::Wrong;
    };
    for (name, value) in [(header::CONTENT_TYPE, "application/grpc"), (header::TE, "trailers")] {
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    let question = framed(&question(&check.service));
    over(stream, request, Some(question), |response: Response<RecvStream>| async move {
        let grpc = response.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
        if response.status() != 200 || !grpc || refuses(response.headers()) {
            return Err(Observation::Wrong);
        }
        let (mut body, mut message) = (response.into_body(), Vec::new());
        while let Some(part) = body.data().await {
            let part = part.map_err(|_| Observation::Wrong)?;
            if message.len() + part.len() > MESSAGE_LIMIT {
                return Err(Observation::Wrong);
            }
            message.extend_from_slice(&part);
        }
        let end = body.trailers().await.map_err(|_| Observation::Wrong)?;
        let ended_well = end.is_some_and(|t| status(&t) == Some(0));
        let serving = unframed(&message).and_then(serving_status) == Some(SERVING);
        if ended_well && serving { Ok(()) } else { Err(Observation::Wrong) }
    })
    .await
}

fn request(method: Method, tls: bool, authority: &str, path: &str) -> Option<Request<()>> {
    let uri = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(authority)
        .path_and_query(path.parse::<PathAndQuery>().ok()?)
        .build()
        .ok()?;
    Request::builder().method(method).uri(uri).header(header::USER_AGENT, USER_AGENT).body(()).ok()
}

/// One request on a connection of its own; `judge` reads the answer.
async fn over<S, F>(
    stream: S,
    request: Request<()>,
    body: Option<Bytes>,
    judge: impl FnOnce(Response<RecvStream>) -> F,
) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<(), Observation>>,
{
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(FIELDS_LIMIT).max_concurrent_streams(0);
    let (sender, connection) = match builder.handshake::<_, Bytes>(stream).await {
        Ok(both) => both,
        Err(e) => return of_h2(&e),
    };
    let mut driver = AbortOnDrop(tokio::spawn(connection));
    let observed = match exchange(sender, request, body).await {
        Ok(response) => judge(response).await.err().unwrap_or(Observation::Answer),
        Err(e) => of_h2(&e),
    };
    // All handles are gone, so the connection says GOAWAY and closes; nobody waits for that.
    tokio::spawn(async move { drop(timeout(LEAVE, &mut driver.0).await) });
    observed
}

async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Response<RecvStream>, h2::Error> {
    let mut sender = sender.ready().await?;
    let (response, mut send) = sender.send_request(request, body.is_none())?;
    if let Some(body) = body {
        send.send_data(body, true)?;
    }
    response.await
}

/// No answer came. A server that takes no stream, or breaks off, has said so itself, as one that refuses a connection; what
/// is no HTTP/2 is a wrong answer.
fn of_h2(e: &h2::Error) -> Observation {
    match e.get_io() {
        Some(io) => of_error(io),
        None if e.is_remote() && e.is_go_away() => Observation::Refused,
        None if e.is_remote() && e.reason() == Some(h2::Reason::REFUSED_STREAM) => Observation::Refused,
        None => Observation::Wrong,
    }
}

/// `application/grpc`, or that with `+proto` or a parameter.
fn is_grpc(value: &http::HeaderValue) -> bool {
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.first().is_none_or(|b| matches!(b, b'+' | b';')))
}

fn status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// An answer that is nothing but trailers: the call failed.
fn refuses(fields: &HeaderMap) -> bool {
    fields.contains_key("grpc-status") && status(fields) != Some(0)
}

/// gRPC's prefix: not compressed, and the length.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// The one message of a body.
fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    (compressed == 0 && u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// `HealthCheckRequest { string service = 1; }`
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; fields that are not known are passed over, the last one counts. None:
/// that is no message.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number in groups of seven bits, ten at most.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_its_service() {
        assert_eq!(question(""), b"");
        assert_eq!(question("db"), b"\x0a\x02db");
        let long = question(&"x".repeat(200));
        assert_eq!(long[..3], [0x0a, 0xc8, 0x01]);
        assert_eq!(long.len(), 203);
        assert_eq!(framed(b"\x08\x01")[..], *b"\0\0\0\0\x02\x08\x01");
    }

    #[test]
    fn an_answer_is_read_within_its_bounds() {
        assert_eq!(serving_status(b""), Some(0));
        assert_eq!(serving_status(b"\x08\x01"), Some(1));
        assert_eq!(serving_status(b"\x08\x01\x08\x02"), Some(2), "the last one counts");
        let others =
            b"\x12\x03abc\x19\x01\x02\x03\x04\x05\x06\x07\x08\x25\x01\x02\x03\x04\x30\x96\x01\x08\x01";
        assert_eq!(serving_status(others), Some(1), "others are passed over");
        for cut in (1..others.len()).filter(|n| ![5, 14, 19, 22].contains(n)) {
            assert_eq!(serving_status(&others[..cut]), None, "cut at {cut}");
        }
        assert_eq!(serving_status(b"\x00\x01"), None, "field 0");
        assert_eq!(serving_status(b"\x0b"), None, "a group");
        assert_eq!(
            serving_status(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            None,
            "a length of 2^64 - 1"
        );
        assert_eq!(serving_status(&[0x80; 20]), None, "a number without an end");
        assert_eq!(unframed(b"\0\0\0\0\x02\x08\x01"), Some(&b"\x08\x01"[..]));
        for wrong in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\xff\xff\xff\xff\x08",
        ] {
            assert_eq!(unframed(wrong), None, "{wrong:?}");
        }
    }
}
