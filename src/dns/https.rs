//! DNS over HTTPS (RFC 8484), GET and POST, over HTTP/2 and HTTP/1.1.
//!
//! hickory-server's listener answers POST alone and encodes each answer anew, so this one is our own, on hyper: the answer's
//! bytes go out as they were made. Connections count as TCP connections do and end when they have been idle.

use crate::{
    connections::Admitted,
    encrypted::acceptor,
    message::min_ttl,
    responder::Transport,
    tcp::{MAX_QUERY, Shared},
};
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::server::ResolvesServerCert;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

const MESSAGE: &str = "application/dns-message";
/// Queries of one connection at once.
const STREAMS: u32 = 100;
/// Bytes of a body that are read, to refuse it.
const MAX_BODY: usize = 64 << 10;
/// Bytes of all headers of a request; the longest GET of a query of [`MAX_QUERY`] bytes fits.
const HEADERS: u32 = 16 << 10;

/// One listener.
pub(crate) struct Https {
    pub(crate) path: String,
    pub(crate) shared: Arc<Shared>,
    acceptor: TlsAcceptor,
}

impl Https {
    pub(crate) fn new(
        path: String,
        certificate: Arc<dyn ResolvesServerCert>,
        shared: Arc<Shared>,
    ) -> io::Result<Https> {
        Ok(Https { path, shared, acceptor: acceptor(certificate, &["h2", "http/1.1"])? })
    }

    /// Accepts until it is told to stop.
    pub(crate) async fn serve(self: Arc<Https>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.shared.leave.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(_) => sleep(Duration::from_millis(20)).await, // out of descriptors: wait for some to close
            }
        }
    }

    fn admit(self: &Arc<Https>, stream: TcpStream, peer: SocketAddr) {
        let Some(admitted) = self.shared.admit(Transport::Https, peer.ip()) else { return };
        let this = self.clone();
        tokio::spawn(async move {
            this.shared.run(&admitted, this.clone().connection(stream, peer, &admitted)).await;
        });
    }

    async fn connection(
        self: Arc<Https>,
        stream: TcpStream,
        peer: SocketAddr,
        admitted: &Arc<Admitted>,
    ) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let idle = self.shared.idle;
        let stream = tokio::select! {
            () = admitted.replaced() => return None,
            stream = timeout(idle, self.acceptor.accept(stream)) => stream.ok()?.ok()?,
        };
        let asked = Arc::new(AtomicU64::new(0));
        let (this, counter, here) = (self.clone(), asked.clone(), admitted.clone());
        let service = service_fn(move |request| {
            counter.fetch_add(1, Relaxed);
            let (this, here) = (this.clone(), here.clone());
            async move {
                let answer = timeout(idle, this.answer(request, peer, &here)).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(|_| refusal(StatusCode::REQUEST_TIMEOUT)))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEADERS as usize);
        builder
            .http2()
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .initial_stream_window_size(MAX_BODY as u32);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut before = 0;
        loop {
            let ended = tokio::select! {
                biased;
                ended = timeout(idle, connection.as_mut()) => ended.is_ok(),
                () = admitted.replaced() => break,
            };
            if ended {
                return Some(());
            }
            let now = asked.load(Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
        connection.as_mut().graceful_shutdown();
        timeout(idle, connection).await.ok()?.ok()
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        here: &Arc<Admitted>,
    ) -> Response<Full<Bytes>> {
        if request.uri().path() != self.path {
            return refusal(StatusCode::NOT_FOUND);
        }
        let query = match *request.method() {
            Method::GET => get(request.uri().query().unwrap_or_default()),
            Method::POST => post(request).await,
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        };
        let query = match query {
            Ok(query) => query,
            Err(status) => return refusal(status),
        };
        let _working = here.works();
        let mut out = Vec::new();
        if !self.shared.answer(Transport::Https, peer, &query, &mut out) {
            return refusal(StatusCode::BAD_REQUEST);
        }
        let message = Bytes::from(out).slice(2..);
        let mut response = Response::new(Full::new(message.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
        // RFC 8484 §5.1: no longer than the smallest TTL
        if let Ok(fresh) = HeaderValue::try_from(format!("max-age={}", min_ttl(&message))) {
            headers.insert(CACHE_CONTROL, fresh);
        }
        response
    }
}

/// The query in `?dns=` (RFC 8484 §4.1: base64url without padding).
fn get(query: &str) -> Result<Vec<u8>, StatusCode> {
    let dns = query.split('&').find_map(|p| p.strip_prefix("dns=")).ok_or(StatusCode::BAD_REQUEST)?;
    match BASE64URL_NOPAD.decode(dns.as_bytes()) {
        Ok(bytes) if bytes.len() > MAX_QUERY => Err(StatusCode::URI_TOO_LONG),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

/// The query in the body. It is read before it is refused: some clients do not see an answer that comes earlier.
async fn post(request: Request<Incoming>) -> Result<Vec<u8>, StatusCode> {
    let fits = request.headers().get(CONTENT_TYPE).is_some_and(|t| t == MESSAGE);
    let (mut body, mut query, mut len) = (request.into_body(), Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data().unwrap_or_default();
        len += data.len();
        if len > MAX_BODY {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        if len <= MAX_QUERY {
            query.extend_from_slice(&data);
        } else {
            query = Vec::new(); // what is too long is not kept
        }
    }
    match len {
        _ if !fits => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ..=MAX_QUERY => Ok(query),
        _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}
