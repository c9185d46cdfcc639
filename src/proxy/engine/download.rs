//! A response on its way to the client.

use super::{
    buffer::{Buffer, Out},
    http2,
    splice::{Broke, Splice},
    timer::{Side, Timer},
    upstream::Lease,
    wire::{Trouble, Wire},
};
use crate::{
    http1::{
        Answer, Decoder, Encoder, MAX_FIELDS, Offer, Response, ResponseEdit, Scan, Scanner, write_response,
    },
    pool_state::can_retry,
};
use std::{cell::Cell, future::poll_fn, mem::MaybeUninit};

/// Interim responses before the final one: a client needs 100 and perhaps 103, a loop needs more.
const MAX_INTERIM: usize = 16;
/// A request that was answered with this or more counts as failed for the response time.
const SERVER_ERROR: u16 = 500;

/// How forwarding a response ended.
#[derive(Debug)]
pub(crate) enum Downloaded {
    /// All of it was forwarded.
    Done {
        reuse: Reuse,
        /// The client may send another request.
        keep_alive: bool,
    },
    /// 101 was forwarded: from now on it is a tunnel.
    Tunnel,
    /// The final response did not begin; nothing of it was forwarded.
    Nothing(Lost),
    /// The backend broke in the middle: the client must see a cut.
    Cut,
    /// The client takes no more.
    ClientGone,
}

/// Who may have the backend's connection next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Nobody,
    /// This client alone: it is authenticated, or about to be.
    Client,
    Anyone,
}

/// Why no response began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The backend closed in an orderly way before its first byte.
    Closed,
    /// It broke off.
    Broken,
    /// It took too long.
    Late,
    /// What it sent is no response.
    Invalid(&'static str),
    /// It answered 503, and another one may be asked.
    Busy,
}

impl Lost {
    pub(crate) fn answer(self) -> Answer {
        match self {
            Lost::Late => Answer::GatewayTimeout,
            Lost::Busy => Answer::Unavailable,
            Lost::Closed | Lost::Broken | Lost::Invalid(_) => Answer::BadGateway,
        }
    }
}

/// Forwards one response.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Wire,
    pub(crate) backend: &'a Wire,
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) timer: &'a Timer,
    pub(crate) wait: Wait<'a>,
    pub(crate) request: Asked,
    /// Another backend may be asked when this one is busy.
    pub(crate) elsewhere: &'a Cell<bool>,
    pub(crate) edit: ResponseEdit<'a>,
    /// The final response's status, once it goes to the client.
    pub(crate) status: &'a Cell<u16>,
    pub(crate) idle_ms: u32,
    pub(crate) body_ms: u32,
}

/// A final response whose head was read.
struct Begun {
    decoder: Decoder,
    encoder: Encoder,
    reuse: Reuse,
    tunnel: bool,
    /// The client may send another request.
    keep_alive: bool,
    /// What came of the body has its framing.
    intact: bool,
}

/// What a response depends on in its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) head: bool,
    pub(crate) minor: u8,
    pub(crate) keep_alive: bool,
    /// The protocol that was asked for.
    pub(crate) upgrade: Option<Offer>,
}

impl Download<'_> {
    pub(crate) async fn run(&mut self) -> Downloaded {
        let mut scanner = Scanner::default();
        let mut interim = 0;
        let len = loop {
            let len = match self.read_head(&mut scanner).await {
                Ok(len) => len,
                Err(lost) => return Downloaded::Nothing(lost),
            };
            match self.forward_interim(len).await {
                Ok(false) => break len,
                Ok(true) if interim < MAX_INTERIM => interim += 1,
                Ok(true) => return Downloaded::Nothing(Lost::Invalid("it has no end of interim responses")),
                Err(end) => return end,
            }
            scanner = Scanner::default();
        };
        self.timer.disarm(Side::Backend);
        self.forward(len).await
    }

    async fn read_head(&mut self, scanner: &mut Scanner) -> Result<usize, Lost> {
        loop {
            match scanner.scan(self.buffer.bytes()) {
                Scan::Head(len) => return Ok(len),
                Scan::Bad(_) => return Err(Lost::Invalid("its head is not valid or too large")),
                Scan::More => {}
            }
            match self.backend.fill(self.buffer, self.timer, Side::Backend).await {
                Ok(_) => {}
                Err(Trouble::Timeout) => return Err(Lost::Late),
                Err(Trouble::Closed) if self.buffer.is_empty() => return Err(Lost::Closed),
                Err(_) => return Err(Lost::Broken),
            }
        }
    }

    /// Whether the head was an interim response; it is passed on and done with.
    async fn forward_interim(&mut self, len: usize) -> Result<bool, Downloaded> {
        if self.buffer.bytes().get(9) != Some(&b'1') {
            return Ok(false); // `HTTP/1.1 1xx`; what is not that is judged as final
        }
        let Some(out) = self.judge_interim(len)? else { return Ok(false) };
        self.write(&out).await?;
        self.buffer.consume(len);
        Ok(true)
    }

    /// What the client gets of an interim response; none when the response is final. Not a part of the future, which
    /// would hold the parsed fields.
    fn judge_interim(&self, len: usize) -> Result<Option<Out>, Downloaded> {
        let invalid = |why| Downloaded::Nothing(Lost::Invalid(why));
        let head = &self.buffer.bytes()[..len];
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let response = Response::parse(head, &mut room, self.request.head).map_err(invalid)?;
        if !response.interim() {
            return Ok(None);
        }
        let mut out = Out::new();
        if let Some(stream) = self.client.stream2() {
            let interim = http2::response_head(head, &response, ResponseEdit::NONE);
            interim.map(|head| stream.inform(head)); // a client that is gone is noticed elsewhere
        } else if self.request.minor == 1 {
            write_response(head, &response, 1, true, ResponseEdit::NONE, &mut out);
        }
        Ok(Some(out))
    }

    /// Forwards the final response, whose head has `len` bytes.
    async fn forward(&mut self, len: usize) -> Downloaded {
        let mut out = Out::new();
        let begun = match self.judge(len, &mut out) {
            Ok(begun) => begun,
            Err(why) => return Downloaded::Nothing(why),
        };
        let Begun { mut decoder, encoder, reuse, tunnel, keep_alive, intact } = begun;
        self.client.set_last(intact && decoder.done() && !tunnel);
        let whole = decoder == Decoder::Close; // all of the backend's stream is read
        if intact && decoder.done() && !tunnel && !keep_alive {
            self.client.end_follows();
        }
        if let Err(end) = self.write(&out).await {
            return end;
        }
        if !intact {
            return Downloaded::Cut;
        }
        if tunnel {
            return Downloaded::Tunnel;
        }
        if !decoder.done()
            && let Err(end) = self.forward_body(&mut decoder, encoder, &mut out).await
        {
            return end;
        }
        if let Some(stream) = self.client.stream2() {
            let trailers = match self.backend.upstream2() {
                Some(backend) if whole => poll_fn(|_| backend.poll_trailers()).await,
                _ => None,
            };
            if stream.end(trailers).is_err() {
                return Downloaded::ClientGone;
            }
        }
        Downloaded::Done { reuse: if self.buffer.is_empty() { reuse } else { Reuse::Nobody }, keep_alive }
    }

    /// Judges the final head and writes what the client gets of it and of the body so far. The error says why it is not
    /// forwarded.
    fn judge(&mut self, len: usize, out: &mut Out) -> Result<Begun, Lost> {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let head = &self.buffer.bytes()[..len];
        let response = Response::parse(head, &mut room, self.request.head).map_err(Lost::Invalid)?;
        let tunnel = response.status == 101;
        if tunnel && !response.switches_to(self.request.upgrade) {
            return Err(Lost::Invalid("it changes to a protocol that nobody asked for"));
        }
        let stream = self.client.stream2();
        if let Some(accept) = stream.and_then(|s| s.accept()) {
            accept.judge(&response).map_err(Lost::Invalid)?;
        }
        self.wait.answered(response.status, self.timer.now_us());
        // One that says when to come again is better than one of ours.
        if response.status == 503 && self.elsewhere.get() {
            let lease = self.wait.lease;
            if lease.others(self.timer.now()) && can_retry(lease.pool()) {
                return Err(Lost::Busy);
            }
        }
        self.status.set(response.status);
        let asked = self.request;
        let (mut bare, encoder, keep_alive) = match stream {
            None => {
                let (encoder, keep) =
                    write_response(head, &response, asked.minor, asked.keep_alive, self.edit, out);
                (None, encoder, keep)
            }
            Some(_) => {
                let bare = http2::response_head(head, &response, self.edit);
                (if tunnel { bare.map(http2::accepted) } else { bare }, Encoder::Raw, true)
            }
        };
        let mut decoder = Decoder::new(response.framing);
        let reuse = match (response.keep_alive, response.authenticates) {
            (false, _) => Reuse::Nobody,
            (true, true) => Reuse::Client,
            (true, false) => Reuse::Anyone,
        };
        self.buffer.consume(len);
        let first = decoder.transfer(encoder, self.buffer.bytes(), out);
        if let Ok((used, _)) = first
            && !tunnel
        {
            self.buffer.consume(used);
        }
        if let (Some(stream), Some(head)) = (stream, bare.take()) {
            let _ = stream.respond(head, !tunnel && decoder.done() && out.is_empty()); // as above
        }
        Ok(Begun { decoder, encoder, reuse, tunnel, keep_alive, intact: first.is_ok() })
    }

    async fn forward_body(
        &mut self,
        decoder: &mut Decoder,
        encoder: Encoder,
        out: &mut Out,
    ) -> Result<(), Downloaded> {
        let (mut splice, mut pieces) = (Splice::default(), 0);
        while !decoder.done() {
            self.timer.piece(&mut pieces).await;
            if encoder == Encoder::Raw && splice.on() && self.splice(&mut splice, decoder).await? {
                continue;
            }
            self.timer.arm(Side::Backend, self.body_ms);
            out.clear();
            match self.backend.fill(self.buffer, self.timer, Side::Backend).await {
                Ok(n) if !matches!(decoder, Decoder::Chunked(_)) => {
                    splice.observe(n, self.backend, self.client);
                }
                Ok(_) => {}
                Err(Trouble::Closed) if *decoder == Decoder::Close => {
                    *decoder = Decoder::Done;
                    encoder.end(out);
                }
                Err(_) => return Err(Downloaded::Cut),
            }
            if encoder == Encoder::Raw && !matches!(decoder, Decoder::Chunked(_)) {
                // The commonest case, without a copy.
                let piece = decoder.next(self.buffer.bytes()).map_err(|_| Downloaded::Cut)?;
                self.timer.arm(Side::Client, self.idle_ms);
                let data = &self.buffer.bytes()[piece.data];
                self.client.set_last(decoder.done());
                let wrote = self.client.write_all(data, self.timer, Side::Client).await;
                self.timer.disarm(Side::Client);
                wrote.map_err(|_| Downloaded::ClientGone)?;
                self.buffer.consume(piece.consumed);
                continue;
            }
            let moved = decoder.transfer(encoder, self.buffer.bytes(), out);
            self.client.set_last(moved.is_ok() && decoder.done());
            self.write(out).await?;
            self.buffer.consume(moved.map_err(|_| Downloaded::Cut)?.0);
        }
        self.timer.disarm(Side::Backend);
        Ok(())
    }

    /// Moves a piece of the body as it is; false when copying it is better.
    async fn splice(&self, splice: &mut Splice, decoder: &mut Decoder) -> Result<bool, Downloaded> {
        let left = if let Decoder::Length(left) = decoder { *left } else { u64::MAX };
        let (from, to) =
            ((self.backend, Side::Backend, self.body_ms), (self.client, Side::Client, self.idle_ms));
        match (splice.run(self.timer, from, to, left).await, &decoder) {
            (Ok(None), _) => return Ok(false),
            (Ok(Some(0)), Decoder::Close) => *decoder = Decoder::Done,
            (Ok(Some(0)) | Err(Broke::Source), _) => return Err(Downloaded::Cut),
            (Err(Broke::Sink), _) => return Err(Downloaded::ClientGone),
            (Ok(Some(n)), _) => decoder.skip(n as u64),
        }
        Ok(true)
    }

    async fn write(&self, out: &[u8]) -> Result<(), Downloaded> {
        if out.is_empty() {
            return Ok(());
        }
        self.timer.arm(Side::Client, self.idle_ms);
        let wrote = self.client.write_all(out, self.timer, Side::Client).await;
        self.timer.disarm(Side::Client);
        wrote.map_err(|_| Downloaded::ClientGone)
    }
}

/// The wait for a first byte, which the response time is measured by. Dropped unanswered, it measured nothing.
pub(crate) struct Wait<'a> {
    lease: &'a Lease,
    since_us: u64,
    over: bool,
}

impl<'a> Wait<'a> {
    pub(crate) fn begin(lease: &'a Lease, now_us: u64) -> Wait<'a> {
        lease.health().latency.begin(now_us);
        Wait { lease, since_us: now_us, over: false }
    }

    fn answered(&mut self, status: u16, now: u64) {
        let took = now.saturating_sub(self.since_us);
        self.over = true;
        let health = self.lease.health();
        health.latency.end(now, Some(took));
        health.answered(status);
        health.totals.times.record(took);
        match status {
            SERVER_ERROR.. => health.latency.penalise(now, took),
            101 => {}
            _ => health.latency.record(now, took),
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.lease.health().latency.end(self.since_us, None);
        }
    }
}
