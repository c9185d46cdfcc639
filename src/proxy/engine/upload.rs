//! A request's body on its way to the backend, remembered while it is small, so that it can be sent again.

use super::{
    buffer::Buffer,
    splice::{Broke, Splice},
    timer::{Side, Timer},
    wire::{Trouble, Wire},
};
use crate::http1::{Answer, Decoder, Encoder, Framing};
use std::cell::Cell;

/// Largest body that is remembered, in bytes: what a form or an API call needs, times the connections that send one.
const REPLAY: usize = 64 * 1024;

/// A client has so much time before its rate counts, in milliseconds of waiting for it.
const GRACE_MS: u64 = 10_000;

/// How sending a body ended.
#[derive(Debug)]
pub(crate) enum Uploaded {
    /// All of it was sent.
    Done,
    /// The client went away in the middle.
    ClientGone,
    /// The client sent what must be refused, or nothing for too long.
    Refused(Answer),
    /// The backend takes no more; it may have answered nevertheless.
    BackendGone,
}

/// The state of a body.
#[derive(Debug)]
pub(crate) struct Upload {
    decoder: Decoder,
    encoder: Encoder,
    /// Its end comes as the end of a stream.
    bare: bool,
    max: u64,
    /// Slowest body, in bytes a second; 0 for no limit.
    min_rate: u32,
    received: u64,
    /// How long the client was waited for, in milliseconds.
    waited_ms: u64,
    /// As sent so far; when `remembered` is off, only the last piece.
    framed: Vec<u8>,
    remembered: bool,
}

impl Upload {
    /// A stream of HTTP/2 frames the data by itself, so that what comes in chunks elsewhere comes bare.
    /// The same holds for what goes to a backend. `limits`: the most bytes, and the fewest in a second.
    pub(crate) fn new(framing: Framing, limits: (u64, u32), (bare, bare_out): (bool, bool)) -> Upload {
        let chunked = framing == Framing::Chunked && !bare_out;
        let encoder = if chunked { Encoder::Chunked } else { Encoder::Raw };
        let decoder = match framing {
            Framing::Chunked if bare => Decoder::Close,
            framing => Decoder::new(framing),
        };
        Upload {
            decoder,
            encoder,
            bare: decoder == Decoder::Close,
            max: limits.0,
            min_rate: limits.1,
            received: 0,
            waited_ms: 0,
            framed: Vec::new(),
            remembered: true,
        }
    }

    /// The client sends more slowly than it may.
    fn too_slow(&self) -> bool {
        self.waited_ms > GRACE_MS && self.received * 1000 < u64::from(self.min_rate) * self.waited_ms
    }

    /// The client sent all of it.
    pub(crate) fn done(&self) -> bool {
        self.decoder.done()
    }

    /// Everything that was sent can be sent again.
    pub(crate) fn replayable(&self) -> bool {
        self.remembered
    }

    /// It is, or may be, more than can be remembered; `there` came already.
    pub(crate) fn may_outgrow(&self, there: &[u8]) -> bool {
        match self.decoder {
            Decoder::Done => false,
            Decoder::Length(n) => n > REPLAY as u64,
            Decoder::Chunked(_) => !self.ends_in(there),
            Decoder::Close => true,
        }
    }

    /// Its end is among these bytes; or what is wrong with it, which is told by whoever takes them.
    fn ends_in(&self, mut there: &[u8]) -> bool {
        let mut decoder = self.decoder;
        while !there.is_empty() && !decoder.done() {
            match decoder.next(there) {
                Ok(piece) => there = &there[piece.consumed..],
                Err(_) => return true,
            }
        }
        decoder.done()
    }

    /// What was sent so far, to be sent again.
    pub(crate) fn sent(&self) -> &[u8] {
        &self.framed
    }

    /// Takes what was read from the client; what is new stands behind the returned place.
    pub(crate) fn stage(&mut self, buffer: &mut Buffer) -> Result<usize, Answer> {
        if !self.remembered {
            self.framed.clear();
        }
        let from = self.framed.len();
        let moved = self.decoder.transfer(self.encoder, buffer.bytes(), &mut self.framed);
        let (used, data) = moved.map_err(|e| Answer::Malformed(e.0))?;
        buffer.consume(used);
        self.received += data as u64;
        if self.max > 0 && self.received > self.max {
            return Err(Answer::BodyTooLarge);
        }
        self.remembered &= self.framed.len() <= REPLAY;
        Ok(from)
    }

    /// Sends the rest as the client sends it. Where the backend took too long, [`Side::Upload`] is over. `again` is no more
    /// when more was sent than can be sent again.
    pub(crate) async fn run(
        &mut self,
        client: (&Wire, &mut Buffer, u32),
        backend: (&Wire, u32),
        (timer, again): (&Timer, &Cell<bool>),
    ) -> Uploaded {
        let ((from, buffer, idle_ms), (to, response_ms)) = (client, backend);
        let (mut splice, mut pieces) = (Splice::default(), 0);
        while !self.done() {
            timer.piece(&mut pieces).await;
            if let Decoder::Length(left) = self.decoder
                && splice.on()
            {
                let (source, sink) = ((from, Side::Upload, idle_ms), (to, Side::Upload, response_ms));
                match splice.run(timer, source, sink, left).await {
                    Ok(None) => {}
                    Ok(Some(0)) | Err(Broke::Source) => return Uploaded::ClientGone,
                    Err(Broke::Sink) => return Uploaded::BackendGone,
                    Ok(Some(n)) => {
                        self.decoder.skip(n as u64);
                        continue;
                    }
                }
            }
            timer.arm(Side::Upload, idle_ms);
            let since = timer.now();
            let filled = from.fill(buffer, timer, Side::Upload).await;
            self.waited_ms += timer.now() - since;
            match filled {
                _ if self.too_slow() => return Uploaded::Refused(Answer::Slow),
                Ok(n) if !self.remembered => splice.observe(n, from, to),
                Ok(_) => {}
                Err(Trouble::Timeout) => return Uploaded::Refused(Answer::Slow),
                Err(Trouble::Closed) if self.decoder == Decoder::Close => self.decoder = Decoder::Done,
                Err(Trouble::Closed | Trouble::Io) => return Uploaded::ClientGone,
            }
            timer.disarm(Side::Upload);
            let place = match self.stage(buffer) {
                Ok(place) => place,
                Err(answer) => return Uploaded::Refused(answer),
            };
            again.set(again.get() && self.replayable());
            if self.bare && self.done() {
                self.encoder.end(&mut self.framed); // the stream's end, which is no byte of it
            }
            timer.arm(Side::Upload, response_ms);
            to.set_last(self.done());
            if to.write_all(&self.framed[place..], timer, Side::Upload).await.is_err() {
                return Uploaded::BackendGone;
            }
            timer.disarm(Side::Upload);
        }
        if to.upstream2().is_some_and(|s| s.end().is_err()) {
            return Uploaded::BackendGone;
        }
        Uploaded::Done
    }
}
