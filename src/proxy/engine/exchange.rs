//! One request and its response: chosen, sent, forwarded, and tried elsewhere where nobody can tell.
//!
//! | what happened | any method | idempotent only | never |
//! |---|---|---|---|
//! | the connection was not made | retried | | |
//! | the connection had ended before the request reached it | retried | | |
//! | the request was sent, no final response began, or it is 503 | | retried | |
//! | a byte of the final response was forwarded | | | cut |
//!
//! And only while everything that was sent of the body is remembered.

use super::{
    View,
    buffer::{Buffer, Out},
    download::{Asked, Download, Downloaded, Lost, Reuse, Wait},
    http::{End, Session},
    http2::{self, Refused, Upstream2},
    preamble, relay,
    timer::Side,
    upload::{Upload, Uploaded},
    upstream::Lease,
    wire::Wire,
};
use crate::{
    access::{self, Entry, Of},
    counters,
    health::now_us,
    http1::{Answer, ResponseEdit},
    outlier,
    pool_state::may_retry,
    preamble::Ends,
    socket,
};
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::Poll,
};

/// A request that is ready to be sent.
pub(crate) struct Plan {
    pub(crate) view: Rc<View>,
    pub(crate) listener: usize,
    pub(crate) route: u32,
    /// When its head was there, in microseconds.
    pub(crate) began_us: u64,
    pub(crate) pool: usize,
    /// The head as the backend gets it.
    pub(crate) head: Out,
    /// The same for a backend of HTTP/2, where it does not depend on the backend; taken by the first that is tried.
    pub(crate) head2: Option<Box<http::Request<()>>>,
    pub(crate) upload: Upload,
    pub(crate) asked: Asked,
    pub(crate) idempotent: bool,
    /// It authenticates the backend's connection, which no other client's request may follow on.
    pub(crate) authenticates: bool,
    /// How often it is tried on another backend.
    pub(crate) retries: u8,
    /// Longest wait for the first byte of a response, in milliseconds.
    pub(crate) response_ms: u32,
    /// What a hash chooses by.
    pub(crate) key: u64,
    /// The backend that the client's sticky cookie names, and whether the cookie needs no renewal; else that of its private
    /// connection.
    pub(crate) before: Option<(u32, bool)>,
    /// Longest time until the response is over, in milliseconds; 0 for no limit.
    pub(crate) total_ms: u32,
    /// Who asks: the address that connects, or the one that a trusted proxy names.
    pub(crate) client: IpAddr,
    /// It is written to the access log. Boxed: few requests are, and each would hold its room.
    pub(crate) sampled: Option<Box<Began>>,
}

/// Why an attempt failed without a byte of the response forwarded.
struct Failure {
    lost: Lost,
    /// No backend can have read the request.
    unread: bool,
    /// A kept connection failed, or one that the backend ends in an orderly way: that says nothing of the backend.
    stale: bool,
}

impl Failure {
    /// The backend itself is at fault, and left out for a while.
    fn hard(&self) -> bool {
        !self.stale && !matches!(self.lost, Lost::Invalid(_) | Lost::Busy)
    }
}

/// Serves one request, and writes it to the access log when it is sampled.
pub(crate) async fn exchange(session: &mut Session, mut plan: Plan) -> End {
    let end = match plan.total_ms {
        0 => serve(session, &mut plan).await,
        ms => within(ms, session, &mut plan).await,
    };
    let (listener, worker) = (plan.view.listener(plan.listener), session.client.worker.index);
    if session.seen.0.get() != 101 {
        // a tunnel's time is not a request's
        let now_us = session.client.timer.now_us();
        listener.times.record(plan.route as usize, worker, now_us.saturating_sub(plan.began_us));
    }
    if let Some(began) = plan.sampled.take() {
        began.log(session, &plan);
    }
    end
}

/// Serves a request that may take so long in all: then it is answered 504, or cut where its answer has begun.
async fn within(ms: u32, session: &mut Session, plan: &mut Plan) -> End {
    session.client.timer.arm(Side::Total, ms);
    let timer = session.client.timer.again();
    let end = {
        let mut serving = Box::pin(serve(session, plan));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if timer.expired(Side::Total) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    session.client.timer.disarm(Side::Total);
    match end {
        Some(end) => end,
        None if session.seen.0.get() == 0 => {
            counters::add(&session.cell(&plan.view, plan.listener).failed, 1);
            session.answer(Answer::GatewayTimeout, plan.asked.head, false).await
        }
        None => End::Reset,
    }
}

/// A sampled request when it began.
pub(crate) struct Began {
    bytes: (u64, u64),
    /// Host and target that were asked for, where the backend is asked for others.
    rewritten: Option<(String, String)>,
}

impl Began {
    /// Of the next request of the session, if it is one of so many; `rewritten` has its host and target.
    pub(crate) fn sample(
        session: &Session,
        (view, listener): (&View, usize),
        rewritten: Option<(&str, &str)>,
    ) -> Option<Box<Began>> {
        let every = view.listener(listener).table.access_log;
        let number = session.cell(view, listener).requests.load(Relaxed) + 1;
        access::sampled(every, number).then(|| {
            let bytes = (session.wire.read(), session.wire.written());
            let text = |s: &str| access::text(s.as_bytes());
            let rewritten = rewritten.map(|(host, target)| (text(host), text(target)));
            Box::new(Began { bytes, rewritten })
        })
    }

    fn log(self, session: &Session, plan: &Plan) {
        let asked = access::Asked::of(&plan.head);
        let asked = match self.rewritten {
            Some(by_client) => asked.by_client(by_client),
            None => asked,
        };
        session.client.worker.shared.access.push(Entry {
            listener: (*session.client.listener).clone(),
            client: plan.client,
            of: Of::Request { asked, status: session.seen.0.get() },
            pool: Some(plan.view.pool(plan.pool).table.id.clone()),
            backend: session.seen.1,
            bytes: (session.wire.read() - self.bytes.0, session.wire.written() - self.bytes.1),
            took_us: now_us().saturating_sub(plan.began_us),
        });
    }
}

async fn serve(session: &mut Session, plan: &mut Plan) -> End {
    let (view, pool) = (plan.view.clone(), plan.pool);
    let table = &view.pool(pool).table;
    // A body that cannot be sent twice goes over a connection that nobody can have closed meanwhile. HTTP/2 tells where it
    // closes (GOAWAY).
    let mut fresh = !table.http2 && plan.upload.may_outgrow(session.buffer.bytes());
    let mut stale = false;
    let (mut exclude, mut retries) = (Vec::new(), plan.retries);
    let mut answer = Answer::Unavailable;
    loop {
        let client = (&session.wire, &session.client.timer);
        let lease = match Lease::take(
            &view,
            pool,
            (plan.before.map(|(i, _)| i as usize), plan.key),
            &exclude,
            client,
        )
        .await
        {
            Ok(lease) => lease,
            Err(why) if exclude.is_empty() => {
                answer = why;
                break;
            }
            Err(_) => break, // what the last one failed with says more
        };
        let elsewhere = plan.idempotent && retries > 0;
        let failure = match attempt(session, plan, &lease, (fresh, elsewhere)).await {
            Ok(end) => return end,
            Err(failure) => failure,
        };
        answer = failure.lost.answer();
        let health = lease.health();
        if failure.hard() && !lease.out_of_room() {
            let now = now_us();
            health.latency.penalise(now, 0);
            outlier::failed(lease.pool(), lease.index(), lease.fault());
        } else if matches!(failure.lost, Lost::Invalid(_)) {
            // It may be due to what was asked for: the rate tells. It was fast, and gets no more for that.
            health.latency.penalise(now_us(), 0);
            outlier::suspect(health);
        }
        if !failure.stale {
            health.totals.errors.fetch_add(1, Relaxed);
        }
        if session.client.timer.expired(Side::Total) {
            session.client.timer.disarm(Side::Total); // the answer has time of its own
            break;
        }
        if !plan.upload.replayable() || !(failure.unread || plan.idempotent) {
            break;
        }
        if failure.stale && !std::mem::replace(&mut stale, true) {
            fresh = true; // the others that are kept may be as dead
        } else if retries == 0 || !may_retry(view.pool(pool)) {
            break;
        } else {
            retries -= 1;
            if !failure.stale {
                exclude.push(lease.index());
            }
        }
        health.totals.retries.fetch_add(1, Relaxed);
    }
    counters::add(&session.cell(&view, plan.listener).failed, 1);
    let keep = plan.asked.keep_alive && plan.upload.done();
    session.answer(answer, plan.asked.head, keep).await
}

/// A backend's connection as this request found it.
struct Opened {
    wire: Wire,
    reused: bool,
    /// It is the client's alone.
    private: bool,
    /// Bytes written and read before.
    before: (u64, u64),
    /// Bytes that its TCP was given before.
    sent: u64,
    /// Whose connection the backend was told that it is.
    ends: Option<Ends>,
}

impl Opened {
    async fn open(session: &mut Session, lease: &Lease, fresh: bool) -> Option<Opened> {
        let ends = preamble::ends(&session.client, &session.wire, lease.pool());
        let own = lease.take_private(&mut session.private, ends);
        let (timer, private) = (&session.client.timer, own.is_some());
        let kept = own.or_else(|| if fresh { None } else { lease.take_kept(timer, ends) });
        let reused = kept.is_some();
        let wire = match kept {
            Some(wire) => wire,
            None => lease.open(timer, ends).await?,
        };
        let (before, sent) = ((wire.written(), wire.read()), wire.sent());
        Some(Opened { reused, private, before, sent, wire, ends })
    }

    /// Not a byte came for this request.
    fn silent(&self) -> bool {
        self.wire.read() == self.before.1
    }

    /// Why nothing came on a stream of HTTP/2.
    fn failure2(&self, lost: Lost) -> Failure {
        let stream = self.wire.upstream2();
        if lost == Lost::Late {
            stream.inspect(|s| s.retire());
        }
        let gone = matches!(lost, Lost::Closed | Lost::Broken);
        match stream.and_then(Upstream2::refused) {
            Some(Refused::Stream) => Failure { lost: Lost::Busy, unread: true, stale: false },
            Some(Refused::Connection) => Failure { lost, unread: true, stale: true },
            None => {
                let unread = gone && stream.is_some_and(Upstream2::unread);
                Failure { lost, unread, stale: self.reused && gone }
            }
        }
    }

    /// Adds this request's bytes to the backend's totals.
    fn count(&self, lease: &Lease) {
        let totals = &lease.health().totals;
        totals.bytes_in.fetch_add(self.wire.written() - self.before.0, Relaxed);
        totals.bytes_out.fetch_add(self.wire.read() - self.before.1, Relaxed);
    }
}

/// Tries one backend; with `fresh` over a new connection, with `elsewhere` another one may be asked when it is busy.
async fn attempt(
    session: &mut Session,
    plan: &mut Plan,
    lease: &Lease,
    (fresh, elsewhere): (bool, bool),
) -> Result<End, Failure> {
    let health = lease.health();
    health.totals.requests.fetch_add(1, Relaxed);
    session.seen.1 = Some(health.addr);
    let Some(backend) = Opened::open(session, lease, fresh).await else {
        return Err(Failure { lost: Lost::Broken, unread: true, stale: false });
    };
    let wait = Wait::begin(lease, session.client.timer.now_us());
    let sent = send(session, plan, (&backend.wire, health.addr)).await;
    let end = match sent {
        Err(Sending::Refused(answer)) => return Ok(session.refuse(answer, plan.asked.head).await),
        // Not one byte was taken: the connection was dead before.
        Err(Sending::Broken) if backend.wire.written() == backend.before.0 => {
            return Err(Failure { lost: Lost::Broken, unread: true, stale: backend.reused });
        }
        Err(Sending::Broken) | Ok(()) => {
            let mut exchanged = respond(session, plan, lease, &backend, (wait, elsewhere)).await;
            exchanged.uploaded &= sent.is_ok(); // half a request was sent: nothing may follow it
            settle(session, plan, lease, &backend, exchanged).await
        }
    };
    backend.count(lease);
    let (end, reuse) = end?;
    match reuse {
        Reuse::Nobody => {}
        Reuse::Anyone if !backend.private && !plan.authenticates => {
            lease.kept().give(backend.wire, session.client.timer.now(), backend.ends);
        }
        _ => lease.keep_private(&mut session.private, backend.wire, backend.ends),
    }
    Ok(end)
}

enum Sending {
    Refused(Answer),
    Broken,
}

/// Sends the head and what is there of the body in one write.
async fn send(
    session: &mut Session,
    plan: &mut Plan,
    (backend, addr): (&Wire, SocketAddr),
) -> Result<(), Sending> {
    let timer = &session.client.timer;
    let response_ms = plan.response_ms;
    timer.arm(Side::Backend, response_ms);
    if !plan.upload.done() {
        plan.upload.stage(&mut session.buffer).map_err(Sending::Refused)?;
    }
    let body = plan.upload.sent();
    let wrote = if let Some(stream) = backend.upstream2() {
        let told = (session.wire.stream2().is_some(), plan.view.pool(plan.pool).table.tls.is_some());
        let request = match plan.head2.take() {
            Some(request) => request,
            None => Box::new(http2::upstream_head(&plan.head, told, addr).map_err(Sending::Refused)?),
        };
        let whole = plan.upload.done() && body.is_empty();
        match backend.begin(stream, (request, plan.head.len()), whole, timer).await {
            Ok(()) => {
                backend.set_last(plan.upload.done());
                backend.write_all(body, timer, Side::Backend).await
            }
            Err(e) => Err(e),
        }
    } else if body.is_empty() {
        backend.write_all(&plan.head, timer, Side::Backend).await
    } else {
        let mut first = Out::new();
        first.extend_from_slice(&plan.head);
        first.extend_from_slice(body);
        backend.write_all(&first, timer, Side::Backend).await
    };
    if !plan.upload.done() {
        timer.disarm(Side::Backend); // the response has its time when the body was sent
    }
    wrote.map_err(|_| Sending::Broken)
}

/// What both directions came to.
struct Exchanged {
    down: Option<Downloaded>,
    refused: Option<Answer>,
    uploaded: bool,
    buffer: Buffer,
}

/// The cookie that makes a client come back to this backend, where it does not already.
fn set_cookie(plan: &Plan, lease: &Lease, tls: bool) -> Option<String> {
    let pool = lease.pool();
    let name = pool.table.sticky.as_ref()?;
    if plan.before == Some((lease.index() as u32, true)) {
        return None;
    }
    let (value, secure) = (pool.sticky.of(lease.index())?, if tls { "; Secure" } else { "" });
    Some(format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}"))
}

/// Sends the rest of the body and forwards the response, at once, as one state machine.
async fn respond(
    session: &mut Session,
    plan: &mut Plan,
    lease: &Lease,
    opened: &Opened,
    (wait, elsewhere): (Wait<'_>, bool),
) -> Exchanged {
    let (backend, elsewhere) = (&opened.wire, Cell::new(elsewhere));
    let cookie = set_cookie(plan, lease, session.wire.is_tls());
    let listener = &plan.view.listener(plan.listener).table;
    let route = &listener.routes[plan.route as usize].spec;
    let (idle_ms, response_ms) = (listener.idle_timeout_ms, plan.response_ms);
    let Session { client, wire, buffer: read, seen, .. } = session;
    let mut buffer = Buffer::default();
    let mut uploaded = plan.upload.done();
    let mut sending = !uploaded;
    let (mut since, total_ms) = (client.timer.now(), u64::from(plan.total_ms));
    let mut refused = None;
    let down = {
        let mut download = Download {
            client: wire,
            backend,
            buffer: &mut buffer,
            timer: &client.timer,
            wait,
            request: plan.asked,
            elsewhere: &elsewhere,
            edit: ResponseEdit { rewrite: &route.response, cookie: cookie.as_deref() },
            status: &seen.0,
            idle_ms,
            body_ms: response_ms.max(idle_ms),
        };
        let mut down = pin!(download.run());
        let timers = (&client.timer, &elsewhere);
        let mut up = pin!(plan.upload.run((wire, read, idle_ms), (backend, response_ms), timers));
        poll_fn(|cx| {
            if let Poll::Ready(ended) = down.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if sending && let Poll::Ready(sent) = up.as_mut().poll(cx) {
                sending = false;
                match sent {
                    Uploaded::Done => {
                        uploaded = true;
                        since = client.timer.now();
                        if seen.0.get() == 0 {
                            client.timer.arm(Side::Backend, response_ms); // the response has its time now
                        }
                    }
                    Uploaded::BackendGone if seen.0.get() != 0 => {}
                    Uploaded::BackendGone if client.timer.expired(Side::Upload) => {
                        client.timer.expire(Side::Backend); // it had its time
                    }
                    Uploaded::BackendGone => client.timer.arm(Side::Backend, response_ms),
                    Uploaded::ClientGone => return Poll::Ready(None),
                    Uploaded::Refused(answer) => {
                        refused = Some(answer);
                        return Poll::Ready(None);
                    }
                }
            }
            // The request's own time is over. The backend was late if it had half of that for itself.
            let late = || opened.silent() && client.timer.now() - since >= total_ms / 2;
            if uploaded && client.timer.expired(Side::Total) && late() {
                return Poll::Ready(Some(Downloaded::Nothing(Lost::Late)));
            }
            Poll::Pending
        })
        .await
    };
    client.timer.disarm(Side::Upload);
    Exchanged { down, refused, uploaded, buffer }
}

/// A tunnel's backend, which sees a cut where the tunnel is cut: also when a client of HTTP/2 takes its stream back and
/// nobody relays any more.
struct Tunnel<'b> {
    backend: &'b Wire,
    ended: bool,
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.backend.reset_on_close();
        }
    }
}

/// Decides what becomes of both connections.
async fn settle(
    session: &mut Session,
    plan: &Plan,
    lease: &Lease,
    backend: &Opened,
    exchanged: Exchanged,
) -> Result<(End, Reuse), Failure> {
    let Exchanged { down, refused, uploaded, buffer } = exchanged;
    let end = match down {
        None => match refused {
            // A second response would look like the rest of the one that is on its way.
            Some(_) if session.seen.0.get() != 0 => {
                counters::add(&session.cell(&plan.view, plan.listener).refused, 1);
                End::Reset
            }
            Some(answer) => session.refuse(answer, plan.asked.head).await,
            None => End::Close,
        },
        Some(Downloaded::Nothing(lost)) if backend.wire.upstream2().is_some() => {
            return Err(backend.failure2(lost));
        }
        Some(Downloaded::Nothing(lost)) => {
            // It had ended before our bytes came: the end was read, and its TCP has not acknowledged one of them.
            let acked = || socket::bytes_acked(&backend.wire);
            let unannounced = lost == Lost::Broken && backend.silent() && backend.wire.ended();
            let ended = lost == Lost::Closed || unannounced;
            let unread = ended && acked().is_some_and(|n| n <= backend.sent);
            let stale = backend.reused && matches!(lost, Lost::Closed | Lost::Broken);
            return Err(Failure { lost, unread, stale });
        }
        Some(Downloaded::Done { reuse, keep_alive }) => {
            let end = match (uploaded, keep_alive, session.buffer.is_empty()) {
                (true, true, _) => End::Again,
                (true, false, true) => End::Close,
                _ => End::Linger, // the client may still be sending
            };
            return Ok((end, if uploaded { reuse } else { Reuse::Nobody }));
        }
        Some(Downloaded::Tunnel) => {
            let idle_ms = plan.view.listener(plan.listener).table.tunnel_timeout_ms;
            session.client.timer.disarm(Side::Total);
            session.count_answer(true);
            let read = (std::mem::take(&mut session.buffer), buffer);
            let mut tunnel = Tunnel { backend: &backend.wire, ended: false };
            let wires = (&session.wire, tunnel.backend);
            tunnel.ended = relay::relay(&session.client.timer, idle_ms, wires.0, wires.1, read).await;
            if tunnel.ended { End::Close } else { End::Reset }
        }
        Some(Downloaded::Cut) => {
            lease.health().totals.errors.fetch_add(1, Relaxed);
            if !session.client.timer.expired(Side::Backend) {
                outlier::failed(lease.pool(), lease.index(), lease.fault()); // a body that is quiet is no break
            }
            End::Reset
        }
        Some(Downloaded::ClientGone) => End::Reset,
    };
    Ok((end, Reuse::Nobody))
}
