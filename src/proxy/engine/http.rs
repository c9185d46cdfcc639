//! A client's HTTP/1.1 connection: one request after the other, in order.

use super::{
    View,
    accept::Client,
    buffer::{Buffer, Out},
    download::Asked,
    exchange::{self, Began, Plan},
    http2,
    timer::Side,
    unsent::Unsent,
    upload::Upload,
    upstream::Private,
    wire::{LINGER_MS, Trouble, Wire},
};
use crate::{
    balance::{self, random},
    counters::{self, Cell as Counters},
    fixed,
    health::now_us,
    http1::{
        Answer, Edit, Forwarded, Framing, Identity, MAX_FIELDS, MAX_HEAD, Offer, Request, Scan, Scanner,
        write_request,
    },
};
use std::{cell::Cell, mem::MaybeUninit, net::SocketAddr, rc::Rc, sync::atomic::Ordering::Acquire};
use zonekeeper_core::model::{Http2, RateLimit};

/// A client's connection and what was read from it.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) wire: Wire,
    pub(crate) buffer: Buffer,
    at: Option<(u64, usize)>,
    /// The connection to a backend that is this client's alone.
    pub(crate) private: Option<Box<Private>>,
    /// What the last request was answered, and the backend that was tried last.
    pub(crate) seen: (Cell<u16>, Option<SocketAddr>),
}

/// What becomes of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The next request may come.
    Again,
    /// It is closed.
    Close,
    /// It is closed when the client has taken the answer.
    Linger,
    /// It is reset, so that nothing looks complete.
    Reset,
    /// It goes on as HTTP/2, from its first byte.
    Http2,
}

/// Serves a connection to its end.
pub(crate) async fn serve(client: Client, wire: Wire) {
    let mut session = Session::new(client, wire, Buffer::default());
    let mut served = 0;
    let end = loop {
        match session.request(served == 0).await {
            End::Again if session.buffer.is_empty() => served = 1,
            // Who pipelines does not keep the others waiting.
            End::Again => session.client.timer.piece(&mut served).await,
            end => break end,
        }
    };
    match end {
        End::Reset => session.wire.reset_on_close(),
        End::Linger => session.wire.linger(&mut session.buffer, &session.client.timer).await,
        End::Http2 => Box::pin(http2::serve(session.client, session.wire, session.buffer)).await,
        End::Again | End::Close => session.close().await,
    }
}

/// Serves one request whose head is this text.
pub(crate) async fn serve_text(session: &mut Session, head: &[u8]) -> End {
    if head.len() > MAX_HEAD
        || session.buffer.room().len() < head.len()
        || session.buffer.append(head).is_err()
    {
        let view = session.client.worker.view();
        let Some(listener) = session.listener(&view) else { return End::Close };
        let unsent = Unsent::sample(session, (&view, listener), head, 0);
        return session.refuse_logged(Answer::HeadTooLarge, unsent).await;
    }
    session.serve_request(head.len()).await
}

/// What becomes of a request.
enum Planned {
    Forward(Plan),
    /// It is answered here; the connection may go on.
    Answered(Out, bool),
}

/// That, or why it is none, and whether the connection could go on.
type Judged = Result<Planned, (Answer, Asked, bool)>;

impl Session {
    pub(crate) fn new(client: Client, wire: Wire, buffer: Buffer) -> Session {
        Session { client, wire, buffer, at: None, private: None, seen: Default::default() }
    }

    /// Serves the next request. What waits for one holds no configuration: it would stay in memory for as long.
    async fn request(&mut self, first: bool) -> End {
        let before = (self.wire.read(), self.wire.written());
        self.seen = Default::default();
        let end = match self.read_head(first).await {
            Err(end) => end,
            Ok(len) if first && self.is_preface(len) => return End::Http2,
            Ok(len) => self.serve_request(len).await,
        };
        let view = self.client.worker.view();
        if let Some(listener) = self.listener(&view) {
            let cell = self.cell(&view, listener);
            counters::add(&cell.bytes_in, self.wire.read() - before.0);
            counters::add(&cell.bytes_out, self.wire.written() - before.1);
        }
        self.count_answer(false);
        end
    }

    /// Counts the answer that the client got; that of a tunnel when the tunnel begins.
    pub(crate) fn count_answer(&mut self, tunnel: bool) {
        let (view, status) = (self.client.worker.view(), self.seen.0.get());
        if (status == 101) == tunnel
            && let Some(listener) = self.listener(&view)
        {
            self.cell(&view, listener).answered(status);
        }
    }

    /// The client begins with HTTP/2 without having asked, and may.
    fn is_preface(&mut self, len: usize) -> bool {
        if &self.buffer.bytes()[..len] != http2::PREFACE_HEAD {
            return false;
        }
        let view = self.client.worker.view();
        let listener = self.listener(&view);
        listener.is_some_and(|i| view.listener(i).table.http2 == Http2::PriorKnowledge)
    }

    /// Plans the request whose head has this length, and counts it; none when our listener is gone. Not a part of the future,
    /// which would hold what is looked at.
    fn judge(&mut self, len: usize) -> Option<(Judged, Option<Box<Unsent>>)> {
        // The configuration may have changed since the last request.
        let view = self.client.worker.view();
        let listener = self.listener(&view)?;
        let planned = self.plan(len, &view, listener);
        let unsent = match &planned {
            Ok(Planned::Forward(_)) => None,
            _ => Unsent::sample(self, (&view, listener), &self.buffer.bytes()[..len], 0),
        };
        self.buffer.consume(len);
        let cell = self.cell(&view, listener);
        match &planned {
            Ok(_) => counters::add(&cell.requests, 1),
            Err((Answer::Limited(_), ..)) => counters::add(&cell.limited, 1),
            Err(_) => {}
        }
        Some((planned, unsent))
    }

    async fn serve_request(&mut self, len: usize) -> End {
        let Some((planned, unsent)) = self.judge(len) else { return End::Close };
        let end = match planned {
            Ok(Planned::Answered(out, keep_alive)) => {
                self.seen.0.set(fixed::status(&out));
                self.send(&out, keep_alive).await
            }
            // An idle connection does not hold its room.
            Ok(Planned::Forward(plan)) => Box::pin(exchange::exchange(self, plan)).await,
            Err((answer @ Answer::Limited(_), asked, bodiless)) => {
                self.answer(answer, asked.head, asked.keep_alive && bodiless).await
            }
            Err((Answer::NoRoute, asked, true)) => {
                self.answer(Answer::NoRoute, asked.head, asked.keep_alive).await
            }
            Err((answer, asked, _)) => self.refuse(answer, asked.head).await,
        };
        if let Some(unsent) = unsent {
            unsent.log(self);
        }
        end
    }

    /// Refuses what is no head, or not in time.
    async fn refuse_logged(&mut self, answer: Answer, unsent: Option<Box<Unsent>>) -> End {
        let end = self.refuse(answer, false).await;
        if let Some(unsent) = unsent {
            unsent.log(self);
        }
        end
    }

    /// The index of our listener; looked up when the configuration changed.
    fn listener(&mut self, view: &View) -> Option<usize> {
        match self.at {
            Some((version, index)) if version == view.version => Some(index),
            _ => {
                let index = view.live.find(&self.client.listener)?;
                self.at = Some((view.version, index));
                Some(index)
            }
        }
    }

    /// Our counters.
    pub(crate) fn cell<'v>(&self, view: &'v View, listener: usize) -> &'v Counters {
        view.listener(listener).cells.of(self.client.worker.index)
    }

    /// Of what has come of a head, which is no request.
    fn unsent(&mut self, waited_ms: u64) -> Option<Box<Unsent>> {
        let view = self.client.worker.view();
        let listener = self.listener(&view)?;
        Unsent::sample(self, (&view, listener), self.buffer.bytes(), waited_ms)
    }

    /// The version of the configuration, and how long a connection may be idle and a head may take.
    fn patience(&mut self) -> Option<(u64, u32, u32)> {
        let view = self.client.worker.view();
        let table = &view.listener(self.listener(&view)?).table;
        Some((view.version, table.idle_timeout_ms, table.header_timeout_ms))
    }

    /// Reads until a whole head is there and returns its length.
    async fn read_head(&mut self, first: bool) -> Result<usize, End> {
        let Some((version, idle_ms, header_ms)) = self.patience() else { return Err(End::Close) };
        let (mut scanner, mut skipped, mut begun) = (Scanner::default(), false, 0);
        loop {
            let bytes = self.buffer.bytes();
            if !skipped && bytes.starts_with(b"\r\n") {
                skipped = true; // RFC 9112 §2.2: one empty line before a request is ignored
                self.buffer.consume(2);
                continue;
            }
            match scanner.scan(bytes) {
                Scan::Head(len) => {
                    self.client.timer.disarm(Side::Client);
                    return Ok(len);
                }
                Scan::Bad(answer) => {
                    let unsent = self.unsent(self.waited_since(begun));
                    return Err(self.refuse_logged(answer, unsent).await);
                }
                Scan::More => {}
            }
            let idle = bytes.is_empty();
            if idle && !first {
                self.client.timer.arm(Side::Client, idle_ms);
            } else if begun == 0 {
                begun = self.client.timer.now(); // the whole head has this time, however it trickles in
                self.client.timer.arm(Side::Client, header_ms);
            }
            let worker = &self.client.worker;
            let leave = || idle && !first && (worker.shared.closing() || gone(version, &self.client));
            match self.wire.fill_unless(&mut self.buffer, &self.client.timer, Side::Client, leave).await {
                Ok(_) => {}
                Err(Trouble::Timeout) if !idle => {
                    let unsent = self.unsent(self.waited_since(begun));
                    return Err(self.refuse_logged(Answer::Slow, unsent).await);
                }
                Err(_) => return Err(End::Close),
            }
        }
    }

    /// Milliseconds since a head began; 0 when it came at once.
    fn waited_since(&self, begun: u64) -> u64 {
        if begun == 0 { 0 } else { self.client.timer.now().saturating_sub(begun) }
    }

    /// Whether a limit (`of`: a number of its own) has room for the request.
    fn limited(&self, limit: Option<&RateLimit>, of: u64, request: &Request<'_, '_>) -> Result<(), Answer> {
        let Some(limit) = limit else { return Ok(()) };
        let key = balance::key_by(&limit.key, request, of);
        let taken = self.client.worker.shared.rates().take(limit, key, now_us());
        taken.map_err(|us| Answer::Limited(us.div_ceil(1_000_000).min(u64::from(u32::MAX)) as u32))
    }

    /// Judges the head, finds the pool and writes the head that the backend gets. The error says whether the
    /// connection could go on.
    fn plan(&self, len: usize, view: &Rc<View>, listener: usize) -> Judged {
        let live = view.listener(listener);
        let head = &self.buffer.bytes()[..len];
        let mut asked = Asked { head: false, minor: 1, keep_alive: false, upgrade: None };
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = Request::parse(head, &mut room).map_err(|a| (a, asked, false))?;
        let (from, client) =
            Forwarded::of(self.client.peer.ip(), self.wire.is_tls(), &live.table.trusted, request.fields);
        request.client = Some(client);
        asked = Asked {
            head: request.method == "HEAD",
            minor: request.minor,
            keep_alive: request.keep_alive && !self.client.worker.shared.draining(),
            upgrade: request.upgrade.map(Offer::of),
        };
        let bodiless = matches!(request.framing, Framing::None | Framing::Length(0));
        let limited = |limit, of| self.limited(limit, of, &request).map_err(|a| (a, asked, bodiless));
        limited(live.table.rate_limit.as_ref(), live.seed)?;
        let index = live.table.match_route(&request).ok_or((Answer::NoRoute, asked, bodiless))?;
        let route = &live.table.routes[index];
        limited(route.spec.rate_limit.as_ref(), live.seed + 1 + index as u64)?;
        let max = route.spec.limits.max_body.unwrap_or(live.table.max_body);
        if max > 0 && matches!(request.framing, Framing::Length(n) if n > max) {
            return Err((Answer::BodyTooLarge, asked, false));
        }
        let pool = live.routes[index].next();
        let websocket = request.upgrade.is_some_and(|u| u.eq_ignore_ascii_case(b"websocket"));
        let refused = match pool {
            // HTTP/2 has no upgrade; any other one may be ignored (RFC 9110 §7.8).
            Some(pool) => websocket && view.pool(pool).table.http2,
            // An answer of success would say that the tunnel stands (RFC 9113 §8.5).
            None => websocket && self.wire.stream2().is_some() && fixed::succeeds(&route.spec.target),
        };
        if refused {
            return Err((Answer::Tunnel, asked, true));
        }
        let mut out = Out::new();
        let Some(pool) = pool else {
            let keep_alive = asked.keep_alive && bodiless;
            fixed::write(&route.spec, &request, from.tls, keep_alive, &mut out);
            return Ok(Planned::Answered(out, keep_alive));
        };
        let table = &view.pool(pool).table;
        let path = route.rewritten(request.target);
        let renamed = path.is_some() || route.spec.rewrite.host.is_some();
        let asked_for = (request.host, request.target);
        let sampled = Began::sample(self, (view, listener), renamed.then_some(asked_for));
        let identity = live.table.identify.then(|| Identity([random(), random(), random()]));
        write_request(
            head,
            &request,
            from,
            Edit { path: path.as_deref(), rewrite: &route.spec.rewrite, identity },
            &mut out,
        );
        let mut head2 = None;
        if table.http2 {
            let told = (self.wire.stream2().is_some(), table.tls.is_some());
            let request2 =
                http2::upstream_head(&out, told, self.client.peer).map_err(|a| (a, asked, false))?;
            let named = !request.host.is_empty() || route.spec.rewrite.host.is_some();
            head2 = named.then(|| Box::new(request2));
        }
        Ok(Planned::Forward(Plan {
            view: view.clone(),
            listener,
            route: index as u32,
            began_us: self.client.timer.now_us(),
            pool,
            head: out,
            head2,
            upload: Upload::new(
                request.framing,
                (max, live.table.min_rate),
                (self.wire.stream2().is_some(), table.http2),
            ),
            asked,
            authenticates: request.authenticates,
            idempotent: request.idempotent() || route.spec.target.idempotent(),
            retries: route.spec.limits.retries.unwrap_or(table.retries),
            response_ms: route.spec.limits.response_timeout_ms.unwrap_or(table.response_timeout_ms),
            key: balance::key(table, &request),
            before: self.before(view, pool, &request),
            total_ms: route.spec.limits.request_timeout_ms.unwrap_or(live.table.request_timeout_ms),
            client,
            sampled,
        }))
    }

    /// The backend that the request goes back to, and whether its sticky cookie is one of now.
    fn before(&self, view: &View, pool: usize, request: &Request<'_, '_>) -> Option<(u32, bool)> {
        let private = || Some((self.private.as_ref()?.backend(view, pool)?, false));
        balance::sticky(view.pool(pool), request).or_else(private).map(|(i, now)| (i as u32, now))
    }

    /// Answers a request that is not served because of what it is, and ends the connection.
    pub(crate) async fn refuse(&mut self, answer: Answer, head_only: bool) -> End {
        let view = self.client.worker.view();
        if let Some(listener) = self.listener(&view) {
            counters::add(&self.cell(&view, listener).refused, 1);
        }
        self.answer(answer, head_only, false).await
    }

    /// Answers in place of a backend.
    pub(crate) async fn answer(&mut self, answer: Answer, head_only: bool, keep_alive: bool) -> End {
        let mut out = Out::new();
        answer.write(&mut out, head_only, keep_alive);
        self.seen.0.set(answer.status());
        self.send(&out, keep_alive).await
    }

    /// Sends an answer that is written already.
    async fn send(&mut self, out: &[u8], keep_alive: bool) -> End {
        self.client.timer.disarm(Side::Backend);
        self.client.timer.arm(Side::Client, LINGER_MS);
        let rest = match self.wire.stream2() {
            Some(stream) => stream.answer(out),
            None => Ok(0),
        };
        if !keep_alive {
            self.wire.end_follows();
        }
        let wrote = match rest {
            Ok(at) => self.wire.write_all(&out[at..], &self.client.timer, Side::Client).await,
            Err(_) => Err(Trouble::Io),
        };
        self.client.timer.disarm(Side::Client);
        match wrote {
            Ok(()) if keep_alive => End::Again,
            Ok(()) => End::Linger,
            Err(_) => End::Close,
        }
    }

    /// TLS says that this is the end and no cut (RFC 8446 §6.1); TCP does so by closing.
    async fn close(&mut self) {
        if self.wire.is_tls() {
            self.client.timer.arm(Side::Client, LINGER_MS);
            let _ = self.wire.shutdown(&self.client.timer, Side::Client).await;
        }
    }
}

/// Our listener is no longer in the configuration, which had this version.
fn gone(version: u64, client: &Client) -> bool {
    let shared = &client.worker.shared;
    shared.version.load(Acquire) != version && client.worker.view().live.find(&client.listener).is_none()
}
