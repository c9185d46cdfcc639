//! One probe on the path that a client takes.

use super::{
    http2,
    plan::Key,
    tls::{H2, Handshake, Trust},
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::{io, mem, net::Ipv6Addr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use zonekeeper_core::{
    detector::{CONFIRM_MS, Observation, Pace},
    model::{CheckKind, HttpCheck, ProxyHeader},
};
use zonekeeper_proxy::preamble::{self, Ends};

/// What probes call themselves.
pub(super) const USER_AGENT: &str = concat!("zonekeeper/", env!("CARGO_PKG_VERSION"));
/// Bytes of a body that are searched for the expected text.
const BODY_LIMIT: usize = 64 << 10;

/// Why nothing was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blind {
    /// This machine had no descriptor or memory for it: it sees nothing at all.
    NoRoom,
    /// It had no port or address of its own for this one (EADDRNOTAVAIL): its ports there are used up, or it has no IPv6.
    NoWay,
}

/// Tries of one stream at most: one that hangs shall not take the room of all others.
const MOST: usize = 48;

/// The tries of one stream that are under way.
#[derive(Debug)]
pub(crate) struct Tries {
    under_way: JoinSet<(u32, Result<Observation, Blind>)>,
    /// Counts volleys: tries that confirm a refusal together. Those of before confirm nothing.
    volley: u32,
    spare: Arc<Semaphore>,
    news: Arc<Notify>,
    trust: Trust,
}

/// How many tries in a row must be refused until that is what a probe saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusals {
    /// Without news.
    pub(crate) needed: u8,
    /// Once there are news of the one who is asked: all that make it red, so that a far path takes one round trip for all.
    pub(crate) on_news: u8,
}

impl Tries {
    /// None yet. `spare`: room for tries beside the first one of a probe. `news`: of the one who is asked.
    pub(crate) fn new(spare: Arc<Semaphore>, news: Arc<Notify>) -> Tries {
        Tries { under_way: JoinSet::new(), volley: 0, spare, news, trust: Trust::default() }
    }

    /// Probes once, within the time that the pace allows. Whatever the first try sees that ends, of this probe or of the
    /// one before, is what the probe saw. Where this machine could not make it, its silence says nothing.
    ///
    /// A probe that confirms a refusal goes on until so many tries of its own were refused, sent [`CONFIRM_MS`] apart: none
    /// waits for the one before it, so that a far path takes one round trip for all. So does one that news overtake; an
    /// answer to an older try leaves them for the next. What was seen, and how many times.
    pub(crate) async fn probe(
        &mut self,
        key: &Arc<Key>,
        pace: Pace,
        mut refusals: Refusals,
    ) -> Result<(Observation, u8), Blind> {
        if refusals.needed > 1 {
            self.volley = self.volley.wrapping_add(1);
        }
        self.begin(key, pace, None);
        let mut sent = Instant::now();
        let [soon, again, more] = [CONFIRM_MS, pace.again_ms, pace.more_ms].map(Duration::from_millis);
        let mut unsent = refusals.needed.saturating_sub(1);
        let mut overdue = unsent == 0; // once the next one goes out
        let next = sleep(if overdue { again } else { soon });
        tokio::pin!(next);
        let (news, mut overtaken, mut passed) = (self.news.clone(), false, false);
        let (mut blind, mut refused) = (None, 0);
        let seen = async {
            loop {
                tokio::select! {
                    Some(ended) = self.under_way.join_next() => match ended {
                        Ok((volley, Ok(Observation::Refused))) if refusals.needed == 1 || volley == self.volley => {
                            refused += 1;
                            if refused >= refusals.needed {
                                return (Observation::Refused, refused);
                            }
                        }
                        Ok((volley, Ok(seen @ (Observation::Answer | Observation::Wrong)))) => {
                            passed = overtaken && volley == self.volley;
                            return (seen, 1);
                        }
                        Ok((_, Err(why))) => blind = Some(why),
                        _ => {} // silent, or given up, or of before; another one may do better
                    },
                    // a volley that is out already says what there is to say; news then wait for the next probe
                    () = news.notified(), if refusals.needed == 1 && !overtaken => {
                        self.volley = self.volley.wrapping_add(1);
                        (overtaken, overdue, refused) = (true, false, 0);
                        (refusals.needed, unsent) = (refusals.on_news, refusals.on_news);
                        next.as_mut().reset(Instant::now().max(sent + soon));
                    }
                    () = &mut next => {
                        let room = match self.under_way.len() {
                            0 => Some(None),
                            1..MOST => self.spare.clone().try_acquire_owned().ok().map(Some),
                            _ => None,
                        };
                        if let Some(room) = room {
                            self.begin(key, pace, room);
                            sent = Instant::now();
                            unsent = unsent.saturating_sub(1);
                        }
                        let wait = match unsent {
                            1.. => soon,
                            0 if mem::replace(&mut overdue, true) => more,
                            0 => again,
                        };
                        next.as_mut().reset(Instant::now() + wait);
                    }
                }
            }
        };
        let seen = timeout(Duration::from_millis(pace.within_ms), seen).await;
        if overtaken && !passed && !matches!(seen, Ok((Observation::Refused, _))) {
            news.notify_one();
        }
        match seen {
            Ok(seen) => {
                self.under_way.abort_all();
                self.under_way.detach_all();
                Ok(seen)
            }
            Err(_) if refused > 0 => Ok((Observation::Refused, refused)),
            Err(_) => blind.map_or(Ok((Observation::Silence, 1)), Err),
        }
    }

    fn begin(&mut self, key: &Arc<Key>, pace: Pace, room: Option<OwnedSemaphorePermit>) {
        let (key, life) = (key.clone(), Duration::from_millis(pace.life_ms));
        let (handshake, volley) = (self.trust.handshake(&key), self.volley);
        self.under_way.spawn(async move {
            let _room = room;
            let seen = timeout(life, attempt(&key, handshake)).await.unwrap_or(Ok(Observation::Silence));
            (volley, seen)
        });
    }
}

async fn attempt(key: &Key, handshake: Handshake) -> Result<Observation, Blind> {
    match TcpStream::connect(key.addr).await {
        Ok(stream) => Ok(converse(stream, key, handshake).await),
        Err(e) => blind(&e).map_or_else(|| Ok(of_error(&e)), Err),
    }
}

/// Whether this machine lacked what a connection needs.
fn blind(e: &io::Error) -> Option<Blind> {
    use rustix::io::Errno;
    match Errno::from_io_error(e)? {
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Some(Blind::NoRoom),
        Errno::ADDRNOTAVAIL => Some(Blind::NoWay),
        _ => None,
    }
}

/// What a connection that stands comes to.
async fn converse(mut stream: TcpStream, key: &Key, handshake: Handshake) -> Observation {
    if let Some(version) = key.send_proxy
        && let Err(e) = introduce(&mut stream, version).await
    {
        return of_error(&e);
    }
    if key.check.kind == CheckKind::Tcp && key.send_proxy.is_some() {
        return Observation::Answer; // a reset would take the header back
    }
    if key.check.kind == CheckKind::Tcp {
        // An immediate reset tells the listener nothing was wanted, and leaves no TIME_WAIT here.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Observation::Answer;
    }
    let _ = stream.set_nodelay(true);
    let (config, name) = match handshake {
        Handshake::Plain => return ask(stream, key).await,
        Handshake::Tls(config, name) => (config, name),
        Handshake::Impossible => return Observation::Wrong,
    };
    let http2 = config.alpn_protocols == [H2];
    match tokio_rustls::TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) if http2 && stream.get_ref().1.alpn_protocol() != Some(H2) => Observation::Wrong,
        Ok(stream) => ask(stream, key).await,
        Err(e) => of_error(&e),
    }
}

/// Begins a connection as the pool's connections begin.
async fn introduce(stream: &mut TcpStream, version: ProxyHeader) -> io::Result<()> {
    let ends = Ends { source: stream.local_addr()?, destination: stream.peer_addr()? };
    let mut header = Vec::new();
    preamble::write_own(version, ends, &mut header);
    stream.write_all(&header).await
}

/// Asks on a connection that stands, in the check's protocol.
async fn ask<S>(stream: S, key: &Key) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match &key.check.kind {
        CheckKind::Tcp => Observation::Answer,
        CheckKind::Http(check) => http(stream, check, &host(&check.host, key)).await,
        CheckKind::Http2(check) => http2::get(stream, check, &host(&check.host, key)).await,
        CheckKind::Grpc(check) => http2::health(stream, check, &host(&check.host, key)).await,
    }
}

/// Whom a check asks: the host that it names, or the one that is known of the address (RFC 3986 §3.2.2).
fn host(named: &str, key: &Key) -> String {
    let host = if named.is_empty() { &key.host } else { named };
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// A refusal or a reset is the network's own word; a wrong certificate is a wrong answer; anything else is silence.
pub(super) fn of_error(e: &io::Error) -> Observation {
    use io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
            Observation::Refused
        }
        K::InvalidData | K::UnexpectedEof => Observation::Wrong,
        _ => Observation::Silence,
    }
}

async fn http<S>(stream: S, check: &HttpCheck, host: &str) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let HttpCheck { path, status_min, status_max, body, .. } = check;
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return Observation::Refused;
    };
    let driver = AbortOnDrop(tokio::spawn(connection));
    let request = hyper::Request::get(path.as_str())
        .header("host", host)
        .header("user-agent", USER_AGENT)
        .header("connection", "close")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return Observation::Wrong };
    let observed = match sender.send_request(request).await {
        Err(e) if e.is_parse() => Observation::Wrong,
        Err(_) => Observation::Refused, // cut off before an answer
        Ok(response) if !(*status_min..=*status_max).contains(&response.status().as_u16()) => {
            Observation::Wrong
        }
        Ok(_) if body.is_empty() => Observation::Answer,
        Ok(response) => found(response.into_body(), body.as_bytes()).await,
    };
    drop(driver);
    observed
}

async fn found(mut body: hyper::body::Incoming, text: &[u8]) -> Observation {
    let mut search = Search::new(text);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Observation::Wrong };
        if let Some(observed) = search.more(frame.data_ref().map_or(&[][..], |d| d)) {
            return observed;
        }
    }
    Observation::Wrong
}

/// Looks for a text in the first [`BODY_LIMIT`] bytes of a body.
pub(super) struct Search<'t> {
    text: &'t [u8],
    seen: Vec<u8>,
}

impl Search<'_> {
    pub(super) fn new(text: &[u8]) -> Search<'_> {
        Search { text, seen: Vec::new() }
    }

    /// The next part of the body; the end of the search, if it is one.
    pub(super) fn more(&mut self, part: &[u8]) -> Option<Observation> {
        // of what was searched already only the end may still begin the text
        let from = self.seen.len().saturating_sub(self.text.len());
        self.seen.extend_from_slice(part);
        if self.seen[from..].windows(self.text.len()).any(|w| w == self.text) {
            return Some(Observation::Answer);
        }
        (self.seen.len() > BODY_LIMIT).then_some(Observation::Wrong)
    }
}

/// A probe that ran out of time takes its connection with it.
pub(super) struct AbortOnDrop<T>(pub(super) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
impl Refusals {
    /// So many, with news and without.
    pub(crate) fn just(needed: u8) -> Refusals {
        Refusals { needed, on_news: needed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };
    use tokio::{io::AsyncReadExt, net::TcpListener};
    use zonekeeper_core::model::Check;

    fn check(kind: CheckKind) -> Check {
        let (interval_ms, timeout_ms, rise, fall) = (1_000, 300, 1, 1);
        Check { kind, interval_ms, timeout_ms, rise, fall, jitter_percent: 0, patience_ms: 0 }
    }

    fn key(addr: SocketAddr, check: Check, host: &str) -> Key {
        Key { addr, check, host: host.into(), tls: None, send_proxy: None }
    }

    async fn probe(check: &Check, addr: SocketAddr, host: &str) -> Observation {
        let key = Arc::new(key(addr, check.clone(), host));
        Tries::new(Arc::new(Semaphore::new(0)), Arc::default())
            .probe(&key, Pace::once(300), Refusals::just(1))
            .await
            .unwrap()
            .0
    }

    fn get(path: &str, body: &str) -> CheckKind {
        let (host, path, body) = (String::new(), path.into(), body.into());
        CheckKind::Http(HttpCheck {
            tls: false,
            verify: true,
            host,
            path,
            status_min: 200,
            status_max: 299,
            body,
        })
    }

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = [0; 1024];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(answer).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_probe_tells_refused_silent_wrong_and_right_apart() {
        let closed = {
            let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
            l.local_addr().unwrap()
        };
        assert_eq!(probe(&check(CheckKind::Tcp), closed, "h").await, Observation::Refused);
        let ok = server(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nalive 7").await;
        assert_eq!(probe(&check(CheckKind::Tcp), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "")), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "alive")), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "dead")), ok, "h").await, Observation::Wrong);
        let error = server(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe(&check(get("/", "")), error, "h").await, Observation::Wrong);
        let garbage = server(b"SSH-2.0-none\r\n\r\n").await;
        assert_eq!(probe(&check(get("/", "")), garbage, "h").await, Observation::Wrong);
        let silent = server(b"").await;
        assert_eq!(probe(&check(get("/", "")), silent, "h").await, Observation::Silence);
    }

    #[tokio::test]
    async fn a_refusal_is_confirmed_by_tries_that_do_not_wait_for_each_other() {
        let key = |addr| Arc::new(key(addr, check(CheckKind::Tcp), "h"));
        let pace = Pace { within_ms: 30_000, again_ms: 10_000, more_ms: 10_000, life_ms: 30_000 };
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut tries = Tries::new(Arc::new(Semaphore::new(8)), Arc::default());
        let began = Instant::now();
        assert_eq!(tries.probe(&key(closed), pace, Refusals::just(3)).await, Ok((Observation::Refused, 3)));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(2 * CONFIRM_MS) && took < Duration::from_secs(5), "{took:?}");
        let open = server(b"").await;
        assert_eq!(tries.probe(&key(open), pace, Refusals::just(3)).await, Ok((Observation::Answer, 1)));
        let mut crowded = Tries::new(Arc::new(Semaphore::new(0)), Arc::default());
        let seen = crowded.probe(&key(closed), pace, Refusals::just(3)).await;
        assert_eq!(seen, Ok((Observation::Refused, 3)), "no room for more at once: one after another");
    }

    #[tokio::test]
    async fn news_send_all_confirming_tries_at_once_beside_one_that_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = Arc::new(key(listener.local_addr().unwrap(), check(get("/", "")), "h"));
        let pace = Pace { within_ms: 30_000, again_ms: 30_000, more_ms: 30_000, life_ms: 30_000 };
        let news = Arc::new(Notify::new());
        let mut tries = Tries::new(Arc::new(Semaphore::new(8)), news.clone());
        let gone = async {
            let held = listener.accept().await.unwrap();
            drop(listener);
            news.notify_one();
            held
        };
        let (probe, began) = (tries.probe(&key, pace, Refusals { needed: 1, on_news: 3 }), Instant::now());
        let (seen, (mut held, _)) = tokio::join!(probe, gone);
        assert_eq!(seen, Ok((Observation::Refused, 3)));
        assert!(began.elapsed() >= Duration::from_millis(2 * CONFIRM_MS), "a short gap moves nothing");
        // An answer that was on its way when the news came: they are looked into after it.
        let listener = TcpListener::bind(key.addr).await.unwrap();
        let late = async {
            held = listener.accept().await.unwrap().0;
            news.notify_one();
            tokio::task::yield_now().await;
            held.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let mut tries = Tries::new(Arc::new(Semaphore::new(0)), news.clone());
        let probe = tries.probe(&key, pace, Refusals { needed: 1, on_news: 3 });
        let (seen, ()) = tokio::join!(probe, late);
        assert_eq!(seen, Ok((Observation::Answer, 1)));
        timeout(Duration::from_secs(5), news.notified()).await.expect("the news are still there");
    }

    #[tokio::test]
    async fn tries_of_before_the_news_confirm_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = Arc::new(key(listener.local_addr().unwrap(), check(get("/", "")), "h"));
        let pace = Pace { within_ms: 30_000, again_ms: 20, more_ms: 20, life_ms: 30_000 };
        let news = Arc::new(Notify::new());
        let mut tries = Tries::new(Arc::new(Semaphore::new(2)), news.clone());
        let cut = async {
            let mut held = Vec::new();
            while held.len() < 3 {
                held.push(listener.accept().await.unwrap().0);
            }
            news.notify_one();
            sleep(Duration::from_millis(5)).await;
            for stream in held {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(); // a reset
            }
            let (mut served, _) = listener.accept().await.unwrap();
            sleep(Duration::from_millis(100)).await; // the resets are there by then
            served.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            served
        };
        let (seen, _served) = tokio::join!(tries.probe(&key, pace, Refusals { needed: 1, on_news: 3 }), cut);
        assert_eq!(seen, Ok((Observation::Answer, 1)), "one blow to all connections is no outage");
        assert!(timeout(Duration::from_millis(20), news.notified()).await.is_err(), "they were looked into");
    }

    #[tokio::test]
    async fn tries_that_are_overdue_follow_at_their_own_distance() {
        let key = |addr| Arc::new(key(addr, check(get("/", "")), "h"));
        for (more_ms, least, most) in [(30_000, 2, 2), (20, 6, 16)] {
            let (addr, seen) = deaf(usize::MAX).await;
            let pace = Pace { within_ms: 320, again_ms: 20, more_ms, life_ms: 1_000 };
            let mut tries = Tries::new(Arc::new(Semaphore::new(64)), Arc::default());
            assert_eq!(tries.probe(&key(addr), pace, Refusals::just(1)).await, Ok((Observation::Silence, 1)));
            let seen = seen.load(Relaxed);
            assert!((least..=most).contains(&seen), "{seen} tries");
        }
    }

    /// A server that lets its first connections hang; how many it has seen.
    async fn deaf(to: usize) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = seen.clone();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if count.fetch_add(1, Relaxed) >= to {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
                kept.push(stream);
            }
        });
        (addr, seen)
    }

    #[tokio::test]
    async fn a_probe_that_is_not_answered_soon_tries_again_beside_it() {
        let spare = Arc::new(Semaphore::new(8));
        let key = |addr| Arc::new(key(addr, check(get("/", "")), "h"));
        let (addr, seen) = deaf(2).await;
        let patient = Pace { within_ms: 30_000, again_ms: 20, more_ms: 20, life_ms: 30_000 };
        let saw =
            Tries::new(spare.clone(), Arc::default()).probe(&key(addr), patient, Refusals::just(1)).await;
        assert_eq!(saw, Ok((Observation::Answer, 1)));
        assert!(seen.load(Relaxed) >= 3, "two tries hang");
        let (addr, seen) = deaf(usize::MAX).await;
        let short = Pace { within_ms: 300, again_ms: 20, more_ms: 20, life_ms: 1_000 };
        let mut crowded = Tries::new(Arc::new(Semaphore::new(0)), Arc::default());
        assert_eq!(crowded.probe(&key(addr), short, Refusals::just(1)).await, Ok((Observation::Silence, 1)));
        assert!(seen.load(Relaxed) <= 1, "no room for another try");
    }

    #[tokio::test]
    async fn a_late_answer_is_an_answer_to_the_next_probe() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let key = Arc::new(key(addr, check(get("/", "")), "h"));
        let pace = Pace { within_ms: 100, again_ms: 30_000, more_ms: 30_000, life_ms: 30_000 };
        let mut tries = Tries::new(Arc::new(Semaphore::new(0)), Arc::default());
        assert_eq!(tries.probe(&key, pace, Refusals::just(1)).await, Ok((Observation::Silence, 1)));
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let patient = Pace { within_ms: 30_000, ..pace };
        assert_eq!(
            tries.probe(&key, patient, Refusals::just(1)).await,
            Ok((Observation::Answer, 1)),
            "the second try hangs"
        );
    }
}
